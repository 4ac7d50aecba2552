-- What is remembered of publishes: the newest call of each publisher, with its answer, and what
-- each idempotency key got.

local function unanswered_key(publisher, name, place)
  return 'unanswered.' .. publisher .. '.' .. name .. '.' .. place
end

-- The name of a tombstone: the call of this name must not be carried out.
local function tombstone(publisher, name)
  return 'publisher:' .. publisher .. '.' .. name
end

-- The newest call of a publisher that was carried out: number, name and answer; 0 if there is none.
local function newest_call(publisher)
  local record = pcall('GET', PUBLISHER .. publisher)
  local number, name, reply =
    string.match(type(record) == 'string' and record or '', '^(%d+) (%w+) (.*)$')
  return tonumber(number or 0), name, reply or ''
end

local function remember_call(request, reply)
  local record = whole(request.number) .. ' ' .. request.candidate .. ' ' .. reply
  call('SET', PUBLISHER .. request.publisher, record, 'PX', request.lasting)
  return reply
end

local function words(reply)
  local found = {}
  for word in string.gmatch(string.match(reply, '^[^\n]*'), '%S+') do
    found[#found + 1] = word
  end
  return found
end

local function is_answer(word)
  local prefix, number, count = string.match(word, '^([%w_]+)%-(%d+)(.*)$')
  return prefix
    and parse_position(prefix .. '-' .. number)
    and #prefix <= 64
    and #number <= 15
    and (count == '' or (#count <= 7 and string.match(count, '^%*[1-9]%d*$')))
end

-- Anybody may choose such a key, and other programs may have written there, so nothing fails here.
local function published_before(idempotency_key, lasting)
  local got = pcall('GET', IDEMPOTENCY .. idempotency_key)
  if got then
    -- What may follow the answer is for those who know it.
    local word = type(got) == 'string' and string.match(got, '^%S+')
    return word and is_answer(word) and word or '!WRONGTYPE'
  end
  local publisher, name, place =
    string.match(idempotency_key, '^unanswered%.(%w+)%.(%w+)%.(%d+)$')
  if not publisher then
    return nil
  end
  local _, newest, reply = newest_call(publisher)
  if newest == name then
    return words(reply)[tonumber(place)]
  end
  -- It was not carried out, and now never will be.
  remember(tombstone(publisher, name), '', lasting, milliseconds())
  return nil
end

-- Returns the answer to a call that must not be carried out, or nil.
local function answered_before(request)
  local done, name, reply = newest_call(request.publisher)
  if done == request.number then
    return reply
  end
  if done > request.number then
    return redis.error_reply('STALE a later call of this publisher was done')
  end
  if request.unsettled then
    for place, word in ipairs(words(reply)) do
      local key = unanswered_key(request.publisher, name, place)
      remember('idem:' .. key, word, request.lasting, milliseconds())
    end
  end
  if call('EXISTS', NAMESPACE .. tombstone(request.publisher, request.candidate)) == 1 then
    return remember_call(request, '')
  end
end
