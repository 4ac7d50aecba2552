-- What is kept: the log up to its bounds, and the newest messages of the newest keys.

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

-- Trims the log to the newest mark below which nothing has to be kept, so never by too much.
local function trim(held, bounds, now)
  local trimmed
  while true do
    local oldest = call('LINDEX', MARKS, 0)
    if not oldest then
      break
    end
    local seq, bytes, time = string.match(oldest, '^(%d+) (%d+) (%d+)$')
    -- Otherwise somebody else wrote it.
    if seq then
      local newer, old = held.seq - seq, age(time, now)
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

-- Returns the number of keys of which messages are kept.
local function count_keys(kept, named)
  if kept ~= named then
    -- One of the two was evicted, or somebody deleted it: the other has the names.
    kept = call('ZUNIONSTORE', RECENT, 2, RECENT, NAMES, 'AGGREGATE', 'MAX')
    call('ZUNIONSTORE', NAMES, 1, RECENT, 'WEIGHTS', 0)
  end
  return kept
end

-- Drops what is kept of so many keys, the least recently published ones.
local function evict_keys(count)
  local evicted = call('ZPOPMIN', RECENT, count)
  for i = 1, #evicted, 2 do
    call('DEL', KEY .. evicted[i])
    call('ZREM', NAMES, evicted[i])
  end
end

-- Replaces what is kept of some of a batch's keys by their newest messages.
local function replace_streams(batch, first, last)
  local streams, prefix = {}, batch.held.epoch .. '_' .. batch.nonce
  for i = first, last do
    streams[#streams + 1] = KEY .. batch.keys[i]
  end
  -- Beginning a stream anew takes half as long as trimming it to one message.
  call('DEL', unpack(streams))
  for i = first, last do
    local message = batch.newest[batch.keys[i]]
    call(
      'XADD', streams[i - first + 1], message.number .. '-0', 'data', message.data,
      't', batch.now, 'e', prefix
    )
  end
end

-- Notes these keys as the most recently published ones. Returns how many of them are new.
local function note_keys(keys, first, last, newest)
  local recent = {}
  for i = first, last do
    recent[#recent + 1] = newest[keys[i]].number
    recent[#recent + 1] = keys[i]
  end
  local added = call('ZADD', RECENT, unpack(recent))
  if added > 0 then
    for i = 1, #recent, 2 do
      recent[i] = '0'
    end
    call('ZADD', NAMES, unpack(recent))
  end
  return added
end
