-- All that must happen at once in Redis, as one script: ARGV[1] names the operation.
--
-- KEYS[1] is the namespace's hash of facts, `N:meta`; every other name is made from it, so that
-- `{N}` keeps them all in one slot.
--
--   N:meta            hash: epoch; start, the number after which it counts; seq, the newest
--                     number; bytes, of keys and data published in this epoch; time, in
--                     milliseconds since 1970, of the newest message; run, that of the server on
--                     which the log was last vouched for
--   N:log             stream of all messages, entry id `number-0`: k key or p prefix, d data,
--                     t milliseconds since 1970
--   N:marks           list of `number bytes milliseconds`, oldest first: places to which the log
--                     can be trimmed, some 64 to what it keeps
--   N:key:<key>       stream of that key's newest messages, same entry ids: data, t, and the
--                     epoch e, as these outlive it
--   N:recent          sorted set of the keys that have such a stream, by their newest number
--   N:keys            the same keys, all with score 0, so in the order of their bytes
--   N:idem:<key>      what the publish under that idempotency key got: `id` or `id*count`
--   N:publisher:<id>  the newest call of this publisher that was done: its number, its name and
--                     its answer
--   N:publisher:<id>.<name>  there where the call of this name is not to be done any more
--   N:index           set of the keys that anyone watches
--   N:processes       sorted set of the processes that watch, by the time when their lease ends
--   N:process:<id>    set of the keys that this process watches
--
-- What can fail is read before anything is written. Redis refuses at the first write, and only
-- there, what takes memory that it may not take: so the first write is of that kind, and nothing
-- is ever half done.

local META = KEYS[1]
local NAMESPACE = string.sub(META, 1, -5) -- what `meta` follows, with its colon
local LOG = NAMESPACE .. 'log'
local MARKS = NAMESPACE .. 'marks'
local KEY = NAMESPACE .. 'key:'
local RECENT = NAMESPACE .. 'recent'
local NAMES = NAMESPACE .. 'keys'
local IDEMPOTENCY = NAMESPACE .. 'idem:'
local PUBLISHER = NAMESPACE .. 'publisher:'
local INDEX = NAMESPACE .. 'index'
local PROCESSES = NAMESPACE .. 'processes'
local PROCESS = NAMESPACE .. 'process:'

-- For so many milliseconds the log keeps up to so many times as many messages, within its bytes:
-- for a reader that stood still while much was published.
local GRACE = 10000
local BURST = 16

local call, pcall = redis.call, redis.pcall
local format = string.format

local function whole(number)
  return format('%.0f', number)
end

local function milliseconds()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function facts()
  local held = call('HMGET', META, 'epoch', 'start', 'seq', 'bytes', 'time')
  if not held[1] then
    return nil
  end
  return {
    epoch = held[1],
    start = tonumber(held[2]) or 0,
    seq = tonumber(held[3]) or 0,
    bytes = tonumber(held[4]) or 0,
    time = tonumber(held[5]) or 0,
  }
end

-- What the server calls the time from its start to its end, or nothing where it does not say.
local function current_run()
  local told = pcall('INFO', 'server')
  return type(told) == 'string' and string.match(told, 'run_id:(%w+)') or ''
end

-- Starts an epoch, above every number that is left of earlier ones.
local function begin(epoch)
  local last = 0
  if call('EXISTS', LOG) == 1 then
    local info = call('XINFO', 'STREAM', LOG)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        last = tonumber(string.match(info[i + 1], '^%d+'))
      end
    end
  end
  local newest = call('ZREVRANGE', RECENT, 0, 0, 'WITHSCORES')
  if newest[2] then
    last = math.max(last, tonumber(newest[2]))
  end
  if last >= 2 ^ 53 - 1 then
    error(LOG .. ' has a number that is too large to count on from; delete what has it')
  end
  local now = milliseconds()
  call(
    'HSET', META, 'epoch', epoch, 'start', whole(last), 'seq', whole(last), 'bytes', '0',
    'time', whole(now), 'run', current_run()
  )
  call('DEL', MARKS)
  call('RPUSH', MARKS, whole(last) .. ' 0 ' .. whole(now))
  return { epoch = epoch, start = last, seq = last, bytes = 0, time = now }
end

local function answer(held, ...)
  return { held.epoch, whole(held.start), whole(held.seq), ... }
end

-- A receipt names an entry of the log and says how to know it again: `epoch-number`, a space, and
-- what differs between entries that got one number in two histories. Who holds one gives it back,
-- to be told if history was rewritten since. A mere position is one too, of an entry that nobody
-- has seen.

local function identity(fields)
  return table.concat({ fields[6] or '', #(fields[4] or ''), fields[1], fields[2] }, ' ')
end

local function receipt(held, number, fields)
  return held.epoch .. '-' .. number .. ' ' .. identity(fields)
end

-- Returns the facts, or those of a new epoch, CANDIDATE, where the entry of a receipt is not there
-- any more, but for want of room: there was a flush, or a replica took over that lacked it. And
-- whether the entry is there.
local function check_receipt(held, given, candidate)
  local epoch, number, known = string.match(given, '^(%w+)-(%d+) ?(.*)$')
  if epoch ~= held.epoch then
    return held, false
  end
  local same, found = held.seq >= tonumber(number), false
  if same and known ~= '' then
    local newest = call('XREVRANGE', LOG, number .. '-0', '-', 'COUNT', 1)[1]
    found = newest ~= nil and newest[1] == number .. '-0' and identity(newest[2]) == known
    same = found or not newest
  end
  return same and held or begin(candidate), found
end

-- publish EPOCH PUBLISHER CALL RECEIPT UNSETTLED PER_KEY KEYS MESSAGES BYTES AGE REMEMBER,
-- then for each publish IDEMPOTENCY_KEY COUNT and COUNT times KIND KEY DATA.
--
-- Answers with one word for each publish: `id`, or `id*count` with the first one's id, of what it
-- or the one before under its idempotency key got; `!WRONGTYPE` where it alone is refused. On a
-- second line is the receipt of the newest message that was stored, if any was.
--
-- A publisher makes one call at a time and numbers them. Its newest is remembered with its
-- answer, so that the same call, sent again because no answer came, is not done again, and one
-- that was given up is not done late, after its successors. UNSETTLED says that callers of the
-- call before were told that nobody knows what became of it: if it was done after all, what it got
-- is filed under the idempotency keys that they were told. Those name the call by its EPOCH, which
-- nobody else can guess, so that nobody can give up a call of which they were not told.
--
-- RECEIPT is of the newest message that the publisher was told to be stored. No reader may have
-- come so far as to see that it was undone.

local function unanswered_key(publisher, name, place)
  return 'unanswered.' .. publisher .. '.' .. name .. '.' .. place
end

local function given_up(publisher, name)
  return PUBLISHER .. publisher .. '.' .. name
end

-- The newest call of a publisher that was done: number, name and answer; 0 where there is none.
local function newest_call(publisher)
  local record = pcall('GET', PUBLISHER .. publisher)
  local number, name, reply =
    string.match(type(record) == 'string' and record or '', '^(%d+) (%w+) (.*)$')
  return tonumber(number or 0), name, reply or ''
end

local function words(reply)
  local found = {}
  for word in string.gmatch(string.match(reply, '^[^\n]*'), '%S+') do
    found[#found + 1] = word
  end
  return found
end

local function is_answer(word)
  local epoch, number, count = string.match(word, '^(%w+)%-(%d+)(.*)$')
  return epoch
    and #epoch <= 64
    and #number <= 15
    and (count == '' or (#count <= 7 and string.match(count, '^%*[1-9]%d*$')))
end

-- Anyone chooses such keys, and others' messages may have been written: so nothing here fails.
local function published_before(idempotency_key, remember)
  local got = pcall('GET', IDEMPOTENCY .. idempotency_key)
  if got then
    return type(got) == 'string' and is_answer(got) and got or '!WRONGTYPE'
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
  -- It was not done, and now never will be.
  call('SET', given_up(publisher, name), '', 'PX', remember)
  return nil
end

-- A mark at the newest message, for each 64th of what the log keeps.
local function set_mark(held, last, bounds, now)
  local seq, bytes, time = string.match(last or '', '^(%d+) (%d+) (%d+)$')
  if
    not seq
    or held.seq - seq >= bounds.messages / 64
    or held.bytes - bytes >= bounds.bytes / 64
    or (bounds.age > 0 and now - time >= bounds.age / 64 and held.seq > tonumber(seq))
  then
    call('RPUSH', MARKS, whole(held.seq) .. ' ' .. whole(held.bytes) .. ' ' .. whole(held.time))
  end
end

-- Trims the log to the newest mark below which nothing has to be kept, so never by too much.
local function trim(held, bounds, now)
  local trimmed
  while true do
    local oldest = call('LINDEX', MARKS, 0)
    if not oldest then
      break
    end
    local seq, bytes, time = string.match(oldest, '^(%d+) (%d+) (%d+)$')
    -- Else somebody else wrote it.
    if seq then
      local newer, old = held.seq - seq, now - time
      if
        (newer < bounds.messages or (newer < bounds.messages * BURST and old < GRACE))
        and held.bytes - bytes < bounds.bytes
        and (bounds.age == 0 or old < bounds.age)
      then
        break
      end
      trimmed = seq
    end
    call('LPOP', MARKS)
  end
  if trimmed then
    call('XTRIM', LOG, 'MINID', whole(trimmed + 1) .. '-0')
  end
end

-- Keeps nothing any more of so many keys, those to which nothing was published for longest.
local function forget_keys(count)
  local evicted = call('ZPOPMIN', RECENT, count)
  for i = 1, #evicted, 2 do
    call('DEL', KEY .. evicted[i])
    call('ZREM', NAMES, evicted[i])
  end
end

-- Takes note of the numbers of the newest messages of these keys; and puts their data into their
-- streams, alone, if there are any. Returns how many of the keys are new.
local function note_keys(keys, numbers, datas, now, epoch)
  local new = 0
  -- Some hundreds in one call, as a call costs more than what it does.
  for first = 1, #keys, 500 do
    local last = math.min(first + 499, #keys)
    local streams, recent = {}, {}
    for i = first, last do
      local key = keys[i]
      local place = i - first + 1
      streams[place] = KEY .. key
      recent[2 * place - 1], recent[2 * place] = numbers[key], key
    end
    if datas then
      -- To begin a stream anew takes half the time that trimming it to one message takes.
      call('DEL', unpack(streams))
      for i = first, last do
        local key = keys[i]
        local id = numbers[key] .. '-0'
        call('XADD', streams[i - first + 1], id, 'data', datas[key], 't', now, 'e', epoch)
      end
    end
    local added = call('ZADD', RECENT, unpack(recent))
    if added > 0 then
      for i = 1, #recent, 2 do
        recent[i] = '0'
      end
      call('ZADD', NAMES, unpack(recent))
    end
    new = new + added
  end
  return new
end

local function publish()
  local candidate, publisher, number = ARGV[2], ARGV[3], tonumber(ARGV[4])
  local known, unsettled = ARGV[5], ARGV[6]
  local per_key, keys_bound = ARGV[7], tonumber(ARGV[8])
  local bounds = {
    messages = tonumber(ARGV[9]), bytes = tonumber(ARGV[10]), age = tonumber(ARGV[11]),
  }
  local remember = ARGV[12]
  local total = #ARGV

  local done, name, reply = newest_call(publisher)
  if done == number then
    return reply
  end
  if done > number then
    return redis.error_reply('STALE a later call of this publisher was done')
  end
  if unsettled == '1' then
    for place, word in ipairs(words(reply)) do
      call('SET', IDEMPOTENCY .. unanswered_key(publisher, name, place), word, 'PX', remember)
    end
  end
  local record = whole(number) .. ' ' .. candidate .. ' '
  if call('EXISTS', given_up(publisher, candidate)) == 1 then
    call('SET', PUBLISHER .. publisher, record, 'PX', remember)
    return ''
  end

  -- Reads that fail where one of these is of another type.
  local mark = call('LINDEX', MARKS, -1)
  local kept, named = call('ZCARD', RECENT), call('ZCARD', NAMES)

  local held = facts() or begin(candidate)
  held = check_receipt(held, known, candidate)
  if kept ~= named then
    -- One of them was evicted, or deleted by somebody: the other has the names.
    kept = call('ZUNIONSTORE', RECENT, 2, RECENT, NAMES, 'AGGREGATE', 'MAX')
    call('ZUNIONSTORE', NAMES, 1, RECENT, 'WEIGHTS', 0)
  end
  local now = whole(milliseconds())
  set_mark(held, mark, bounds, now)

  -- The keys that were published to, and the number and data of each one's newest message.
  local published, numbers, datas = {}, {}, {}
  local newest

  -- Returns the number that the message got as a string, or the error by which Redis refused it.
  local function append(kind, key, data)
    local number = whole(held.seq + 1)
    local id = number .. '-0'
    local added = pcall('XADD', LOG, id, kind, key, 'd', data, 't', now)
    if type(added) == 'table' and added.err then
      if newest or not string.find(added.err, 'equal or smaller', 1, true) then
        return nil, added
      end
      -- Somebody else's entries are in the way: go on above them.
      held = begin(candidate)
      number = whole(held.seq + 1)
      id = number .. '-0'
      call('XADD', LOG, id, kind, key, 'd', data, 't', now)
    end
    held.seq = held.seq + 1
    held.bytes = held.bytes + #key + #data
    newest = { kind, key, 'd', data, 't', now }
    if kind == 'k' and per_key ~= '0' then
      if not numbers[key] then
        published[#published + 1] = key
      end
      numbers[key] = number
      datas[key] = data
      if per_key ~= '1' then
        local stream = KEY .. key
        added =
          pcall('XADD', stream, 'MAXLEN', per_key, id, 'data', data, 't', now, 'e', held.epoch)
        if added.err then
          -- It is left of a numbering of which nothing else is left.
          call('DEL', stream)
          call('XADD', stream, id, 'data', data, 't', now, 'e', held.epoch)
        end
      end
    end
    return number
  end

  local results = {}
  local at = 13
  while at <= total do
    local idempotency_key, count = ARGV[at], tonumber(ARGV[at + 1])
    local first = at + 2
    at = first + 3 * count
    local result = idempotency_key ~= '' and published_before(idempotency_key, remember)
    if not result and per_key ~= '0' then
      for i = first, at - 3, 3 do
        if ARGV[i] == 'k' then
          local kind = call('TYPE', KEY .. ARGV[i + 1]).ok
          if kind ~= 'none' and kind ~= 'stream' then
            result = '!WRONGTYPE'
          end
        end
      end
    end
    if not result then
      local number, refusal
      for i = first, at - 3, 3 do
        number, refusal = append(ARGV[i], ARGV[i + 1], ARGV[i + 2])
        if refusal then
          return refusal
        end
      end
      if count == 1 then
        result = held.epoch .. '-' .. number
      else
        result = held.epoch .. '-' .. whole(held.seq - count + 1) .. '*' .. whole(count)
      end
      if idempotency_key ~= '' then
        call('SET', IDEMPOTENCY .. idempotency_key, result, 'PX', remember)
      end
    end
    results[#results + 1] = result
  end

  reply = table.concat(results, ' ')
  if newest then
    reply = reply .. '\n' .. receipt(held, whole(held.seq), newest)
  end
  call('SET', PUBLISHER .. publisher, record .. reply, 'PX', remember)
  if not newest then
    return reply
  end
  call('HSET', META, 'seq', whole(held.seq), 'bytes', whole(held.bytes), 'time', now)
  kept = kept + note_keys(published, numbers, per_key == '1' and datas, now, held.epoch)
  trim(held, bounds, now)
  if kept > keys_bound then
    forget_keys(kept - keys_bound)
  end
  return reply
end

-- state EPOCH VOUCHING RECEIPT…: answers with epoch, start, seq and the receipt of the newest
-- entry. EPOCH is begun where there is none, or where one of the receipts is of what is not there
-- any more.
--
-- A server that was started again, or a replica that took over, may lack what was in the log, and
-- all who know may be gone too. So whoever connects looks whether the log was vouched for since:
-- VOUCHING is the number of its receipts, the first ones, that are from before, or empty where it
-- did not connect just now. If the entry of one of them is there, it vouches for the log. Who has
-- none cannot say whether anything was undone, and EPOCH is begun.

local function state()
  local candidate, vouching = ARGV[2], tonumber(ARGV[3])
  local held = facts() or begin(candidate)
  local vouched = false
  for i = 4, #ARGV do
    local found
    held, found = check_receipt(held, ARGV[i], candidate)
    vouched = vouched or (found and i - 3 <= (vouching or 0))
  end
  local run = vouching and current_run() or ''
  if run ~= '' and run ~= call('HMGET', META, 'run')[1] then
    if vouched then
      -- Where this cannot be written now, whoever connects next vouches or not.
      pcall('HSET', META, 'run', run)
    else
      held = begin(candidate)
    end
  end
  local number = whole(held.seq)
  local position = held.epoch .. '-' .. number
  -- Mostly the caller has it: an entry may be large.
  for i = 4, #ARGV do
    if string.sub(ARGV[i], 1, #position + 1) == position .. ' ' then
      return answer(held, ARGV[i])
    end
  end
  local entry = call('XRANGE', LOG, number .. '-0', number .. '-0')[1]
  return answer(held, entry and receipt(held, number, entry[2]) or position)
end

-- Who watches what.

local function watched_elsewhere(key, process)
  for _, other in ipairs(call('ZRANGE', PROCESSES, 0, -1)) do
    if other ~= process and call('SISMEMBER', PROCESS .. other, key) == 1 then
      return true
    end
  end
  return false
end

local function unwatch(key, process)
  if not watched_elsewhere(key, process) then
    call('SREM', INDEX, key)
  end
end

local function forget(process)
  call('ZREM', PROCESSES, process)
  for _, key in ipairs(call('SMEMBERS', PROCESS .. process)) do
    unwatch(key, process)
  end
  call('DEL', PROCESS .. process)
end

local function sweep(now)
  for _, process in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', whole(now))) do
    forget(process)
  end
end

-- index EPOCH PROCESS LEASE NOTED ADDED KEY…: this process watches the first ADDED of the keys
-- now, and the others no longer, beside the NOTED that it watched before; NOTED is `all` where
-- these are all that it watches. Answers with epoch, start, seq and `done`, or `unknown` where
-- the process has to say everything again, or the error by which Redis refused to note it.
--
-- A process that is gone lets its lease end, and is swept away by any other, or by the next one
-- that comes; where there is none, the index expires as the lease does, and the rest long after.

local function index()
  local candidate, process, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
  local noted, added = ARGV[5], tonumber(ARGV[6])
  local held = facts() or begin(candidate)
  local now = milliseconds()
  local own = PROCESS .. process
  local leased = call('ZSCORE', PROCESSES, process)
  if noted ~= '0' or #ARGV > 6 then
    local refusal = pcall('ZADD', PROCESSES, whole(now + lease), process)
    if type(refusal) == 'table' and refusal.err then
      return answer(held, refusal.err)
    end
  end
  sweep(now)
  if noted == 'all' then
    forget(process)
  elseif
    call('SCARD', own) ~= tonumber(noted)
    or noted ~= '0'
      and (
        not leased
        or tonumber(leased) <= now
        -- Another process may have begun the index anew after somebody deleted it.
        or call('SISMEMBER', INDEX, call('SRANDMEMBER', own)) == 0
      )
  then
    return answer(held, 'unknown')
  end
  for i = 7, 6 + added do
    call('SADD', own, ARGV[i])
    call('SADD', INDEX, ARGV[i])
  end
  for i = 7 + added, #ARGV do
    call('SREM', own, ARGV[i])
    unwatch(ARGV[i], process)
  end
  if call('SCARD', own) == 0 then
    call('ZREM', PROCESSES, process)
  else
    call('ZADD', PROCESSES, whole(now + lease), process)
  end
  call('PEXPIRE', INDEX, lease)
  call('PEXPIRE', PROCESSES, 30 * lease)
  call('PEXPIRE', own, 30 * lease)
  return answer(held, 'done')
end

-- watched: the keys that anyone watches.

local function watched()
  sweep(milliseconds())
  return call('SMEMBERS', INDEX)
end

-- probe: fails where one of the names is of another type, or a command is not permitted, but for
-- INFO: whoever cannot ask for it does not notice what others lost before it came.

local function probe()
  local types = {
    [META] = 'hash', [LOG] = 'stream', [MARKS] = 'list', [RECENT] = 'zset', [NAMES] = 'zset',
    [INDEX] = 'set', [PROCESSES] = 'zset',
  }
  for name, wanted in pairs(types) do
    local kind = call('TYPE', name).ok
    if kind ~= 'none' and kind ~= wanted then
      return redis.error_reply('WRONGTYPE ' .. name .. ' is a ' .. kind .. ', not a ' .. wanted)
    end
  end
  local name = NAMESPACE .. 'probe'
  local commands = {
    { 'TIME' }, { 'EXISTS', name }, { 'DEL', name },
    { 'HSET', name, 'a', 'b' }, { 'HMGET', name, 'a' }, { 'DEL', name },
    { 'SET', name, 'a', 'PX', '1000' }, { 'GET', name }, { 'DEL', name },
    { 'RPUSH', name, 'a' }, { 'LINDEX', name, '0' }, { 'LPOP', name }, { 'DEL', name },
    { 'SADD', name, 'a' }, { 'SISMEMBER', name, 'a' }, { 'SMEMBERS', name }, { 'SCARD', name },
    { 'SRANDMEMBER', name },
    { 'PEXPIRE', name, '1000' }, { 'SREM', name, 'a' }, { 'DEL', name },
    { 'ZADD', name, '0', 'a' }, { 'ZCARD', name }, { 'ZSCORE', name, 'a' },
    { 'ZRANGE', name, '0', '-1' }, { 'ZREVRANGE', name, '0', '0' },
    { 'ZRANGEBYSCORE', name, '-inf', '0' }, { 'ZRANGEBYLEX', name, '-', '+' },
    { 'ZUNIONSTORE', name, '1', name }, { 'ZREM', name, 'b' }, { 'ZPOPMIN', name }, { 'DEL', name },
    { 'XADD', name, '1-0', 'a', 'b' }, { 'XRANGE', name, '-', '+' },
    { 'XREVRANGE', name, '+', '-' }, { 'XINFO', 'STREAM', name }, { 'XTRIM', name, 'MINID', '2-0' },
    { 'DEL', name },
  }
  for _, command in ipairs(commands) do
    local done = pcall(unpack(command))
    if type(done) == 'table' and done.err then
      pcall('DEL', name)
      return redis.error_reply(done.err .. ' (' .. command[1] .. ' ' .. name .. ')')
    end
  end
  return 'done'
end

local operations = {
  publish = publish, state = state, index = index, watched = watched, probe = probe,
}
return operations[ARGV[1]]()
