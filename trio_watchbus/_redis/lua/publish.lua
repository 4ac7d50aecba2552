-- publish NONCE EPOCH PUBLISHER CALL POSITION UNSETTLED LASTING,
-- then for each publish IDEMPOTENCY_KEY COUNT and COUNT times KIND KEY DATA.
--
-- Answers with one word for each publish: what it got, or what an earlier one under the same
-- idempotency key got, as `id` or, with the first one's id, `id*count`; or `!WRONGTYPE` where it
-- alone is refused. A second line has the id of the newest message that was stored, if any.
--
-- A publisher makes one call at a time and numbers its calls. Redis remembers the newest one and
-- its answer, so a call that is sent again because no answer came is not carried out again, and a
-- call that was given up is not carried out late, after its successors. UNSETTLED says that
-- callers of an earlier call were told that its outcome is unknown: if it was carried out after
-- all, its results are filed under the idempotency keys that they were told. Those keys contain
-- the call's EPOCH, which nobody can guess, so nobody else can cancel the call.
--
-- LASTING is for how many milliseconds this call and idempotency keys are remembered.
--
-- POSITION is that of the newest message of this publisher that was stored. No reader may have come
-- far enough to see that it was undone.
--
-- NONCE is new each time that anything is sent, also when the same call is sent again: whatever
-- Redis had lost in between, no two messages have the same position.

local function take_publish_request()
  local request = {}
  request.nonce = take()
  request.candidate = take()
  request.publisher = take()
  request.number = tonumber(take())
  request.position = take()
  request.unsettled = take() == '1'
  request.lasting = tonumber(take())
  return request
end

-- Adds a message to its key's stream, where more than one is kept, and drops two at most.
local function append_to_stream(batch, message, key)
  local stream, prefix = KEY .. key, batch.held.epoch .. '_' .. batch.nonce
  local id, data, length, freed = message.number .. '-0', message.data, call('XLEN', stream), 0
  local dropped = math.min(2, length + 1 - batch.held.bounds.per_key)
  if dropped > 0 then
    for _, entry in ipairs(call('XRANGE', stream, '-', '+', 'COUNT', dropped)) do
      freed = freed + #(field(entry, 'data') or '')
    end
  end
  local most = length + 1 - math.max(0, dropped)
  local added =
    pcall('XADD', stream, 'MAXLEN', most, id, 'data', data, 't', batch.now, 'e', prefix)
  if added.err then
    -- It is left of a numbering of which nothing else is left.
    call('UNLINK', stream)
    call('XADD', stream, id, 'data', data, 't', batch.now, 'e', prefix)
    message.only, message.size = true, #data
  elseif message.only then
    message.size = message.size + #data - freed
  else
    message.grown = message.grown + #data - freed
  end
end

-- Adds a message to the log. Returns its number as a string, or the error with which Redis refused.
local function append_to_log(batch, kind, key, data)
  local number = whole(batch.held.seq + 1)
  local added = pcall(
    'XADD', LOG, number .. '-0', kind, key, 'd', data, 't', batch.now, 'n', batch.nonce,
    'a', batch.held.tail
  )
  return type(added) == 'table' and added or number
end

local function note_newest(batch, number, key, data)
  local message = batch.newest[key]
  if not message then
    batch.keys[#batch.keys + 1] = key
    message = { grown = 0 }
    batch.newest[key] = message
  end
  message.number, message.data = number, data
  if batch.held.bounds.per_key > 1 then
    append_to_stream(batch, message, key)
  else
    message.only, message.size = true, #data
  end
end

-- Stores a message. Returns its number as a string, or the error with which Redis refused.
local function append(batch, kind, key, data)
  local number = append_to_log(batch, kind, key, data)
  if number.err and not batch.stored and string.find(number.err, 'equal or smaller', 1, true) then
    -- Somebody else's entries are in the way: go on above them.
    batch.held = begin(batch.candidate)
    number = append_to_log(batch, kind, key, data)
  end
  if number.err then
    return number
  end
  batch.stored = true
  batch.held.seq = batch.held.seq + 1
  batch.held.tail = batch.nonce
  batch.held.bytes = batch.held.bytes + #key + #data
  if kind == 'k' and batch.held.bounds.per_key > 0 then
    note_newest(batch, number, key, data)
  end
  return number
end

-- Whether the stream of a key to which one of these messages goes is of another type.
local function has_wrong_type(batch, items)
  for i = 1, batch.held.bounds.per_key > 0 and #items or 0, 3 do
    if items[i] == 'k' then
      local kind = call('TYPE', KEY .. items[i + 1]).ok
      if kind ~= 'none' and kind ~= 'stream' then
        return true
      end
    end
  end
  return false
end

local function take_items()
  local items = {}
  for i = 1, 3 * tonumber(take()) do
    items[i] = take()
  end
  return items
end

-- Carries out one publish. Returns its word, or nil and the error with which Redis refused.
local function publish_one(batch, idempotency_key, items, lasting)
  local result = idempotency_key ~= '' and published_before(idempotency_key, lasting)
  if result then
    return result
  end
  if has_wrong_type(batch, items) then
    return '!WRONGTYPE'
  end
  local first
  for i = 1, #items, 3 do
    local number = append(batch, items[i], items[i + 1], items[i + 2])
    if number.err then
      return nil, number
    end
    first = first or number
  end
  result = batch.held.epoch .. '_' .. batch.nonce .. '-' .. first
  if #items > 3 then
    result = result .. '*' .. whole(#items / 3)
  end
  if idempotency_key ~= '' then
    remember('idem:' .. idempotency_key, result, lasting, tonumber(batch.now))
  end
  return result
end

-- Updates everything beside the log after messages were stored, and drops what is beyond the bounds.
local function settle(batch)
  local held, keys, things = batch.held, batch.keys, batch.things
  call(
    'HSET', FACTS, 'seq', whole(held.seq), 'tail', held.tail, 'bytes', whole(held.bytes),
    'time', batch.now
  )
  for first = 1, #keys, CHUNK do
    local last = math.min(first + CHUNK - 1, #keys)
    if held.bounds.per_key == 1 then
      replace_streams(batch, first, last)
    end
    note_keys(things, keys, first, last, batch.newest)
    note_sizes(things, batch, first, last)
  end
  drop_some(held, things, batch.now, math.max(DROPPED, 2 * batch.count))
end

function operations.publish()
  local request = take_publish_request()
  local reply = answered_before(request)
  if reply then
    return reply
  end
  -- These fail where one of them is of another type, before anything is written.
  local mark, things = call('LINDEX', MARKS, -1), count_things()

  local held = facts() or begin(request.candidate)
  held = check_position(held, request.position, request.candidate)
  local now = whole(milliseconds())
  set_mark(held, mark, held.bounds, now)
  local batch = {
    held = held, now = now, candidate = request.candidate, nonce = request.nonce, things = things,
    -- The keys that were published to, and each one's newest message.
    keys = {}, newest = {}, count = 0,
  }
  local results = {}
  while has_more() do
    local idempotency_key = take()
    local items = take_items()
    batch.count = batch.count + #items / 3
    local result, refusal = publish_one(batch, idempotency_key, items, request.lasting)
    if refusal then
      return refusal
    end
    results[#results + 1] = result
  end
  reply = table.concat(results, ' ')
  if batch.stored then
    reply = reply .. '\n' .. position(batch.held)
  end
  remember_call(request, reply)
  if batch.stored then
    settle(batch)
  end
  return reply
end
