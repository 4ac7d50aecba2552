-- What is remembered for a while: idempotency keys, and tombstones of calls.

-- Idempotency keys that are remembered, and tombstones.
local MOST_REMEMBERED = 100000

-- Names that this run added to those remembered.
local newly_remembered = 0
-- The longest time, in milliseconds, for which this run remembers something.
local longest_remembered = 0

-- Remembers something under a name for so many milliseconds, among as many others as there may be.
local function remember(name, value, milliseconds_kept, now)
  call('SET', NAMESPACE .. name, value, 'PX', milliseconds_kept)
  longest_remembered = math.max(longest_remembered, milliseconds_kept)
  newly_remembered = newly_remembered
    + call('ZADD', REMEMBERED, whole(now + milliseconds_kept), name)
end

-- Forgets some of what a clock that was ahead left: by their times, what is new would go first.
-- Returns how many.
local function forget_future(now, limit)
  local latest = now + longest_remembered
  local newest = call('ZREVRANGE', REMEMBERED, 0, math.min(limit, CHUNK) - 1, 'WITHSCORES')
  local names, forgotten = {}, {}
  for i = 1, #newest, 2 do
    if tonumber(newest[i + 1]) > latest then
      names[#names + 1] = newest[i]
      forgotten[#forgotten + 1] = NAMESPACE .. newest[i]
    end
  end
  if #names > 0 then
    call('ZREM', REMEMBERED, unpack(names))
    call('UNLINK', unpack(forgotten))
  end
  return #names
end

-- Forgets what has expired, and what is beyond the bound, those first that expire first; at most LIMIT.
-- Returns whether there is more to forget.
local function forget(things, now, limit)
  local over = things.remembered + newly_remembered - MOST_REMEMBERED
  if over > 0 and longest_remembered > 0 then
    over = over - forget_future(now, math.min(limit, over))
  end
  local expired = call('ZRANGEBYSCORE', REMEMBERED, '-inf', whole(now), 'LIMIT', 0, limit)
  local count = math.min(limit, math.max(over, #expired))
  while count > 0 do
    local names = call('ZPOPMIN', REMEMBERED, math.min(count, CHUNK))
    local forgotten = {}
    for i = 1, #names, 2 do
      forgotten[#forgotten + 1] = NAMESPACE .. names[i]
    end
    if #forgotten == 0 then
      break
    end
    call('UNLINK', unpack(forgotten))
    count = count - #forgotten
  end
  return math.max(over, #expired) >= limit
end
