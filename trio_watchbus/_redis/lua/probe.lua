-- probe: fails where one of the names holds another type, or a command is not permitted. INFO is
-- not among those: a bus that may not use it only does not notice what a restart undid before it
-- was opened.

local function wanted_types()
  return {
    [META] = 'string', [FACTS] = 'hash', [LOG] = 'stream', [MARKS] = 'list', [RECENT] = 'zset', [NAMES] = 'zset',
    [INDEX] = 'set', [COUNTS] = 'hash', [PROCESSES] = 'zset', [SIZES] = 'hash',
    [REMEMBERED] = 'zset',
  }
end

local PROBE = NAMESPACE .. 'probe'

local function commands()
  return {
    { 'TIME' }, { 'EXISTS', PROBE }, { 'DEL', PROBE },
    { 'HSET', PROBE, 'a', 'b' }, { 'HMGET', PROBE, 'a' }, { 'HGET', PROBE, 'a' },
    { 'HEXISTS', PROBE, 'a' }, { 'HINCRBY', PROBE, 'c', 1 }, { 'HDEL', PROBE, 'a' },
    { 'UNLINK', PROBE },
    { 'SET', PROBE, 'a', 'PX', '1000' }, { 'GET', PROBE }, { 'DEL', PROBE },
    { 'RPUSH', PROBE, 'a' }, { 'LINDEX', PROBE, '0' }, { 'LPOP', PROBE }, { 'DEL', PROBE },
    { 'SADD', PROBE, 'a' }, { 'SISMEMBER', PROBE, 'a' }, { 'SCARD', PROBE },
    { 'SRANDMEMBER', PROBE }, { 'SSCAN', PROBE, '0' }, { 'SPOP', PROBE, '0' },
    { 'PEXPIRE', PROBE, '1000' }, { 'SREM', PROBE, 'a' }, { 'DEL', PROBE },
    { 'ZADD', PROBE, '0', 'a' }, { 'ZCARD', PROBE }, { 'ZSCORE', PROBE, 'a' },
    { 'ZRANGE', PROBE, '0', '-1' }, { 'ZREVRANGE', PROBE, '0', '0' },
    { 'ZRANGEBYSCORE', PROBE, '-inf', '0' }, { 'ZRANGEBYLEX', PROBE, '-', '+' },
    { 'ZSCAN', PROBE, '0' }, { 'ZREM', PROBE, 'b' }, { 'ZPOPMIN', PROBE },
    { 'DEL', PROBE },
    { 'XADD', PROBE, '1-0', 'a', 'b' }, { 'XRANGE', PROBE, '-', '+' },
    { 'XREVRANGE', PROBE, '+', '-' }, { 'XLEN', PROBE }, { 'XINFO', 'STREAM', PROBE },
    { 'XTRIM', PROBE, 'MINID', '2-0' }, { 'DEL', PROBE },
  }
end

function operations.probe()
  for name, wanted in pairs(wanted_types()) do
    local kind = call('TYPE', name).ok
    if kind ~= 'none' and kind ~= wanted then
      return redis.error_reply('WRONGTYPE ' .. name .. ' is a ' .. kind .. ', not a ' .. wanted)
    end
  end
  for _, command in ipairs(commands()) do
    local done = pcall(unpack(command))
    if type(done) == 'table' and done.err then
      pcall('DEL', PROBE)
      return redis.error_reply(done.err .. ' (' .. command[1] .. ' ' .. PROBE .. ')')
    end
  end
  return 'done'
end
