-- What the operations share: the names of keys, the numbering, and how to tell that history was
-- rewritten. The files of this folder are joined into one script; ARGV[1] names the operation.
--
-- Whatever can fail is read before anything is written. A script that needs more memory than Redis
-- may take is refused at its first write, and only there. So the first write of each operation is
-- one that needs memory, and nothing is ever half done.

-- KEYS[1] is `N:meta`. All other names are made from it, so `{N}` keeps them in one slot of a
-- cluster. docs/reference/redis-keys.md says what each holds.
local META = KEYS[1]
local NAMESPACE = string.sub(META, 1, -5) -- with its colon
local FACTS = NAMESPACE .. 'facts'
local LOG = NAMESPACE .. 'log'
local MARKS = NAMESPACE .. 'marks'
local KEY = NAMESPACE .. 'key:'
local RECENT = NAMESPACE .. 'recent'
local NAMES = NAMESPACE .. 'keys'
local SIZES = NAMESPACE .. 'sizes'
local IDEMPOTENCY = NAMESPACE .. 'idem:'
local REMEMBERED = NAMESPACE .. 'idempotency'
local PUBLISHER = NAMESPACE .. 'publisher:'
local INDEX = NAMESPACE .. 'index'
local COUNTS = NAMESPACE .. 'counts'
local PROCESSES = NAMESPACE .. 'processes'
local PROCESS = NAMESPACE .. 'process:'

local LAYOUT = '2'

-- Keys and values in one command: more is no faster.
local CHUNK = 500

local call, pcall = redis.call, redis.pcall
local format = string.format

local operations = {}

-- Arguments are taken in order, so that their numbers appear nowhere.
local taken = 1

local function take()
  taken = taken + 1
  return ARGV[taken]
end

local function has_more()
  return taken < #ARGV
end

local function whole(number)
  return format('%.0f', number)
end

local function milliseconds()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Returns an error where the namespace has another layout than this script's.
local function other_layout()
  local layout = pcall('GET', META)
  if layout == LAYOUT then
    return nil
  end
  if type(layout) == 'string' then
    return redis.error_reply(
      'LAYOUT ' .. META .. ' says layout ' .. string.sub(layout, 1, 20) .. ', and this version of'
        .. ' trio-watchbus knows layout ' .. LAYOUT .. ' alone: run the same version everywhere,'
        .. ' or use another namespace'
    )
  end
  if layout then
    return redis.error_reply(
      'LAYOUT ' .. META .. ' is not a string, as it was before layout ' .. LAYOUT .. ': delete all'
        .. ' keys of this namespace, or use another one'
    )
  end
  -- If Redis has no memory for it now, the next call writes it.
  pcall('SET', META, LAYOUT)
end

-- The bounds that are stored with the log, or the defaults; the age is in milliseconds, 0 for none.
local function bounds_of(stored)
  local bounds = {
    messages = tonumber(stored[8]) or 10000,
    bytes = tonumber(stored[9]) or 67108864,
    age = tonumber(stored[10]) or 0,
    per_key = tonumber(stored[11]) or 1,
    keys = tonumber(stored[12]) or 100000,
    kept_bytes = tonumber(stored[13]) or 67108864,
  }
  if bounds.keys == 0 or bounds.per_key == 0 then
    bounds.keys, bounds.per_key = 0, 0
  end
  return bounds
end

local function stored_facts()
  return call(
    'HMGET', FACTS, 'epoch', 'start', 'seq', 'tail', 'bytes', 'time', 'first', 'retain_messages',
    'retain_bytes', 'retain_milliseconds', 'retain_per_key', 'retain_keys', 'retain_kept_bytes'
  )
end

-- The facts in `N:facts`, or nil where no epoch was begun.
local function facts()
  local held = stored_facts()
  if not held[1] then
    return nil
  end
  return {
    epoch = held[1],
    start = tonumber(held[2]) or 0,
    seq = tonumber(held[3]) or 0,
    tail = held[4] or '',
    bytes = tonumber(held[5]) or 0,
    time = tonumber(held[6]) or 0,
    first = tonumber(held[7]) or 0,
    bounds = bounds_of(held),
  }
end

-- Identifies this run of the server; empty where INFO is not permitted.
local function current_run()
  local told = pcall('INFO', 'server')
  return type(told) == 'string' and string.match(told, 'run_id:(%w+)') or ''
end

-- The largest number that anything of earlier epochs has.
local function last_number()
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
  return math.max(last, tonumber(newest[2] or 0))
end

-- The number of the oldest entry that is left in the log.
local function first_number(last)
  local entry = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+')) or last + 1
end

-- Begins an epoch, numbered on from everything that is left of earlier ones.
local function begin(epoch)
  local last = last_number()
  if last >= 2 ^ 53 - 1 then
    error(LOG .. ' has a number that is too large to count on from; delete what has it')
  end
  local now, first = milliseconds(), first_number(last)
  call(
    'HSET', FACTS, 'epoch', epoch, 'start', whole(last), 'seq', whole(last), 'tail', '',
    'bytes', '0', 'time', whole(now), 'first', whole(first), 'run', current_run()
  )
  call('DEL', MARKS)
  call('RPUSH', MARKS, whole(last) .. ' 0 ' .. whole(now))
  return facts()
end

local function answer(held, ...)
  return { held.epoch, whole(held.start), whole(held.seq), held.tail, ... }
end

-- A position is `epoch_nonce-number`, with the nonce of the message of that number, or
-- `epoch-number` at the start of an epoch. Redis may lose messages and number others alike, so the
-- number alone does not tell which one is meant; the nonce, new for each request, does.

local function position(held)
  return held.epoch .. (held.tail ~= '' and '_' .. held.tail or '') .. '-' .. whole(held.seq)
end

local function parse_position(text)
  local epoch, nonce, number = string.match(text, '^(%w+)_(%w+)%-(%d+)$')
  if not epoch then
    epoch, number = string.match(text, '^(%w+)%-(%d+)$')
  end
  return epoch, nonce or '', tonumber(number)
end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then
      return entry[2][i + 1]
    end
  end
end

-- Whether the message of this number has this nonce; nil where the log no longer tells.
local function has_nonce(held, number, nonce)
  if number > held.seq or number == held.seq and nonce ~= held.tail then
    return false
  end
  local entry = call('XRANGE', LOG, whole(number) .. '-0', '+', 'COUNT', 1)[1]
  if entry and entry[1] == whole(number) .. '-0' then
    return field(entry, 'n') == nonce
  end
  if entry and entry[1] == whole(number + 1) .. '-0' then
    return field(entry, 'a') == nonce
  end
  -- Trimming leaves nothing that is older. If something is, this message is gone otherwise.
  if call('XREVRANGE', LOG, whole(number) .. '-0', '-', 'COUNT', 1)[1] then
    return false
  end
  return nil
end

-- Returns the facts, and whether the message at the position GIVEN is in this history. If it was
-- undone, by a flush, say, or a failover to a replica that lacked it, the facts are those of a new
-- epoch, CANDIDATE.
local function check_position(held, given, candidate)
  local epoch, nonce, number = parse_position(given)
  if epoch ~= held.epoch then
    return held, false
  end
  local found = has_nonce(held, number, nonce)
  if found == false then
    return begin(candidate), false
  end
  return held, found == true
end
