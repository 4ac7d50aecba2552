-- Which keys are watched, by any process.
--
-- `N:counts` counts for each key the processes that watch it, and `N:index` has the keys whose
-- count is above 0. Each process has a set of its own keys, so that they can be taken back when it
-- is gone. Every run does a bounded amount of work: a process sends its keys in several calls, and
-- what is left of processes that are gone is swept away a part at a time.
--
-- The counts have a generation, in their field with the empty name, which is that of no key. If
-- Redis loses some of the index, the next generation begins and every process sends its keys again.

-- Keys swept away in one run: with as many that a process sends, some 2 ms.
local SWEPT = 500

-- Milliseconds that no lease lasts: one that ends later was written before the clock was set back.
local LONGEST_LEASE = 60000

local function index_key(own, key)
  if call('SADD', own, key) == 1 then
    call('HINCRBY', COUNTS, key, 1)
    call('SADD', INDEX, key)
  end
end

local function uncount(key)
  if call('HINCRBY', COUNTS, key, -1) <= 0 then
    call('HDEL', COUNTS, key)
    call('SREM', INDEX, key)
  end
end

local function current_generation()
  return call('HGET', COUNTS, '') or ''
end

local function belongs_to(member, generation)
  return string.sub(member, 1, #generation + 1) == generation .. '.'
end

-- Lets leases from the future end within LONGEST_LEASE.
local function shorten_leases(now)
  local latest = now + LONGEST_LEASE
  for _, member in ipairs(
    call('ZRANGEBYSCORE', PROCESSES, '(' .. whole(latest), '+inf', 'LIMIT', 0, SWEPT)
  ) do
    call('ZADD', PROCESSES, whole(latest), member)
  end
end

-- Sweeps away some of what is left of processes whose leases have ended. Returns whether there is
-- more to sweep.
local function sweep(now)
  shorten_leases(now)
  local generation, budget = current_generation(), SWEPT
  while true do
    local member = call('ZRANGEBYSCORE', PROCESSES, '-inf', whole(now), 'LIMIT', 0, 1)[1]
    if not member then
      return false
    end
    if budget <= 0 then
      return true
    end
    local own = PROCESS .. member
    local keys = {}
    if belongs_to(member, generation) then
      -- Refused where Redis has no memory: then it is swept later.
      local refusal = pcall('HSET', COUNTS, '', generation)
      if type(refusal) == 'table' and refusal.err then
        return false
      end
      keys = call('SPOP', own, budget)
    else
      call('UNLINK', own)
    end
    for _, key in ipairs(keys) do
      uncount(key)
    end
    if call('EXISTS', own) == 0 then
      call('ZREM', PROCESSES, member)
    end
    budget = budget - #keys - 1
  end
end

-- index EPOCH PROCESS GENERATION LEASE ABANDONED SIZE ADDED KEY…: this process now watches the
-- first ADDED of the keys, and no longer the others, which makes SIZE in all. Sent again, it
-- changes nothing. GENERATION is empty with the first call under this name; ABANDONED is the
-- process's name and generation before that, or empty.
--
-- Answers with the facts, the generation, and `done`; `more` where there is more to sweep, or beyond
-- the bounds, too; or
-- `unknown` where the process has to send everything again, under another name; or the error with
-- which Redis refused to note it.
--
-- The lease of a process that is gone ends, and any other process sweeps it away. If there is no
-- other, the index expires with the lease, and the rest long after.

local function take_index_request()
  local request = { added = {}, removed = {} }
  request.candidate = take()
  request.process = take()
  request.known = take()
  request.lease = tonumber(take())
  request.abandoned = take()
  request.size = tonumber(take())
  local count = tonumber(take())
  while has_more() do
    local keys = #request.added < count and request.added or request.removed
    keys[#keys + 1] = take()
  end
  return request
end

-- Begins a generation where there is none.
local function begin_generation(generation)
  call('HSET', COUNTS, '', generation)
  call('UNLINK', INDEX)
end

-- Whether one of the keys of a process, chosen at random, is in the index.
local function is_whole(own)
  local key = call('SRANDMEMBER', own)
  return not key or call('HEXISTS', COUNTS, key) == 1 and call('SISMEMBER', INDEX, key) == 1
end

local function renew(request, member, own, now)
  if request.size == 0 then
    call('ZREM', PROCESSES, member)
  else
    call('ZADD', PROCESSES, whole(now + request.lease), member)
  end
  call('PEXPIRE', INDEX, request.lease)
  call('PEXPIRE', COUNTS, request.lease)
  call('PEXPIRE', PROCESSES, 30 * request.lease)
  call('PEXPIRE', own, 30 * request.lease)
end

function operations.index()
  local request = take_index_request()
  local held = facts() or begin(request.candidate)
  local now, generation = milliseconds(), current_generation()
  local is_new = generation == ''
  if is_new then
    generation = request.candidate
  end
  if request.known ~= '' and request.known ~= generation then
    return answer(held, generation, 'unknown')
  end
  local member = generation .. '.' .. request.process
  local own = PROCESS .. member
  local refusal = pcall('ZADD', PROCESSES, whole(now + request.lease), member)
  if type(refusal) == 'table' and refusal.err then
    return answer(held, generation, refusal.err)
  end
  if is_new then
    begin_generation(generation)
  end
  if request.abandoned ~= '' then
    call('ZADD', PROCESSES, 0, request.abandoned)
  end
  for _, key in ipairs(request.added) do
    index_key(own, key)
  end
  for _, key in ipairs(request.removed) do
    if call('SREM', own, key) == 1 then
      uncount(key)
    end
  end
  if call('SCARD', own) ~= request.size then
    return answer(held, generation, 'unknown')
  end
  if not is_whole(own) then
    call('UNLINK', COUNTS, INDEX)
    return answer(held, generation, 'unknown')
  end
  renew(request, member, own, now)
  local more = drop_some(held, count_things(), now, DROPPED)
  return answer(held, generation, (sweep(now) or more) and 'more' or 'done')
end

-- sweep: answers with 1 where there is more to sweep before the index is exact, else 0.
function operations.sweep()
  return sweep(milliseconds()) and 1 or 0
end
