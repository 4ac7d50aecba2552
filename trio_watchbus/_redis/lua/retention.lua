-- What is kept: the log, and the newest messages of the newest keys, each up to its bounds.
--
-- What is beyond a bound is dropped a part at a time: each run drops a bounded number of things, and
-- twice as many as it stored. The rest is left for the next runs, and for those of `index`.

-- Things of each kind that one run drops, unless it stored more: half a millisecond or so.
local DROPPED = 500

-- For so many milliseconds the log may hold so many times as many messages, within its bytes, for
-- readers that stalled during a burst.
local GRACE = 10000
local BURST = 16

-- Milliseconds since TIME. A time from the future was written before the clock was set back, nobody
-- knows when: it counts as old, as otherwise what it marks would be kept until the clock is there.
local function age(time, now)
  time, now = tonumber(time), tonumber(now)
  return time > now and math.huge or now - time
end

-- Sets a mark at the newest message, for each 64th of what the log keeps.
local function set_mark(held, last, bounds, now)
  local seq, bytes, time = string.match(last or '', '^(%d+) (%d+) (%d+)$')
  if
    not seq
    or held.seq - seq >= bounds.messages / 64
    or held.bytes - bytes >= bounds.bytes / 64
    or (bounds.age > 0 and age(time, now) >= bounds.age / 64 and held.seq > tonumber(seq))
  then
    call('RPUSH', MARKS, whole(held.seq) .. ' ' .. whole(held.bytes) .. ' ' .. whole(held.time))
  end
end

-- Whether a mark is so new that what comes after it has to be kept, and what it marks, too.
local function is_needed(held, bounds, now, seq, bytes, time)
  local newer, old = held.seq - seq, age(time, now)
  return (newer < bounds.messages or (newer < bounds.messages * BURST and old < GRACE))
    and held.bytes - bytes < bounds.bytes
    and (bounds.age == 0 or old < bounds.age)
end

-- Trims the log towards the newest mark below which nothing has to be kept, so never by too much, and
-- by at most LIMIT entries. Returns whether there is more to trim.
local function trim(held, bounds, now, limit)
  local target, more
  while not more do
    local oldest = call('LINDEX', MARKS, 0)
    if not oldest then
      break
    end
    local seq, bytes, time = string.match(oldest, '^(%d+) (%d+) (%d+)$')
    -- Otherwise somebody else wrote it.
    if seq then
      if is_needed(held, bounds, now, seq, bytes, time) then
        break
      end
      target = tonumber(seq)
      more = target - held.first >= limit
    end
    if not more then
      call('LPOP', MARKS)
    end
  end
  if target and target >= held.first then
    held.first = more and held.first + limit or target + 1
    call('XTRIM', LOG, 'MINID', whole(held.first) .. '-0')
    call('HSET', FACTS, 'first', whole(held.first))
  end
  return more
end

-- What there is of keys, their bytes and idempotency keys. Fails where one of them is of another type.
local function count_things()
  newly_remembered = 0
  return {
    recent = call('ZCARD', RECENT), named = call('ZCARD', NAMES),
    kept = tonumber(call('HGET', SIZES, '') or 0), remembered = call('ZCARD', REMEMBERED),
  }
end

-- Makes the two sets of keys alike a part at a time, if one of them was evicted or somebody deleted
-- it. Returns whether they differ still.
local function repair_keys(things)
  if things.recent == things.named then
    return false
  end
  local phase, at = string.match(call('HGET', FACTS, 'repair') or 'recent 0', '^(%l+) (.*)$')
  local source, names, done
  if phase == 'recent' then
    local page = call('ZSCAN', RECENT, at, 'COUNT', CHUNK)
    source, names, done = NAMES, {}, page[1] == '0'
    for i = 1, #page[2], 2 do
      names[#names + 1] = page[2][i]
    end
    phase, at = done and 'keys' or phase, done and '-' or page[1]
  else
    names = call('ZRANGEBYLEX', NAMES, at, '+', 'LIMIT', 0, CHUNK)
    source, done = RECENT, #names < CHUNK
    phase, at = done and 'recent' or phase, done and '0' or '(' .. names[#names]
  end
  local added = {}
  for i, name in ipairs(names) do
    added[2 * i - 1], added[2 * i] = '0', name
  end
  if #added > 0 then
    call('ZADD', source, 'NX', unpack(added))
  end
  call('HSET', FACTS, 'repair', phase .. ' ' .. at)
  return true
end

-- Drops what is kept of the first COUNT keys, whose sizes are SIZES.
local function drop_keys(keys, sizes, count, kept)
  local streams, dropped = {}, {}
  for i = 1, count do
    streams[i], dropped[i] = KEY .. keys[i], keys[i]
    kept = kept - (tonumber(sizes[i]) or 0)
  end
  call('UNLINK', unpack(streams))
  call('ZREM', RECENT, unpack(dropped))
  call('ZREM', NAMES, unpack(dropped))
  call('HDEL', SIZES, unpack(dropped))
  call('HSET', SIZES, '', whole(math.max(0, kept)))
  return kept
end

-- Drops what is kept of keys beyond the bounds, the least recently published ones, at most LIMIT.
-- Returns whether there are more.
local function evict_keys(things, bounds, limit)
  local kept, over = things.kept, things.recent - bounds.keys
  local chunk = 16
  while over > 0 or kept > bounds.kept_bytes do
    if limit <= 0 then
      return true
    end
    chunk = math.min(math.max(2 * chunk, over), limit, CHUNK)
    local keys = call('ZRANGE', RECENT, 0, chunk - 1)
    if #keys == 0 then
      -- It counts what is gone.
      call('HDEL', SIZES, '')
      return false
    end
    local sizes = call('HMGET', SIZES, unpack(keys))
    local count, left = 0, kept
    while count < #keys and (count < over or left > bounds.kept_bytes) do
      count = count + 1
      left = left - (tonumber(sizes[count]) or 0)
    end
    kept = drop_keys(keys, sizes, count, kept)
    over, limit = over - count, limit - count
  end
  return false
end

-- Replaces what is kept of some of a batch's keys by their newest messages.
local function replace_streams(batch, first, last)
  local streams, prefix = {}, batch.held.epoch .. '_' .. batch.nonce
  for i = first, last do
    streams[#streams + 1] = KEY .. batch.keys[i]
  end
  -- Beginning a stream anew takes half as long as trimming it to one message.
  call('UNLINK', unpack(streams))
  for i = first, last do
    local message = batch.newest[batch.keys[i]]
    call(
      'XADD', streams[i - first + 1], message.number .. '-0', 'data', message.data,
      't', batch.now, 'e', prefix
    )
  end
end

-- Notes these keys as the most recently published ones.
local function note_keys(things, keys, first, last, newest)
  local recent = {}
  for i = first, last do
    recent[#recent + 1] = newest[keys[i]].number
    recent[#recent + 1] = keys[i]
  end
  local added = call('ZADD', RECENT, unpack(recent))
  if added > 0 then
    things.recent = things.recent + added
    for i = 1, #recent, 2 do
      recent[i] = '0'
    end
    things.named = things.named + call('ZADD', NAMES, unpack(recent))
  end
end

-- Notes how many bytes are kept of these keys now.
local function note_sizes(things, batch, first, last)
  local sizes = call('HMGET', SIZES, unpack(batch.keys, first, last))
  local noted = {}
  for i = first, last do
    local key, before = batch.keys[i], tonumber(sizes[i - first + 1])
    local message = batch.newest[key]
    local size = message.only and #key + message.size or (before or #key) + message.grown
    things.kept = things.kept + size - (before or 0)
    noted[#noted + 1] = key
    noted[#noted + 1] = whole(size)
  end
  call('HSET', SIZES, '', whole(things.kept), unpack(noted))
end

-- Drops some of what is beyond the bounds. Returns whether there is more.
local function drop_some(held, things, now, limit)
  local more = trim(held, held.bounds, now, limit)
  more = repair_keys(things) or more
  more = evict_keys(things, held.bounds, limit) or more
  return things.remembered > 0 and forget(things, now, limit) or more
end
