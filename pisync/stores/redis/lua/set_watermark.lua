-- Writes down how far one bridge's events are merged, beside the data, so that both are lost together.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch, the history (master_replid) in which it is so or '' where not known, bridge id,
--          low watermark (epoch ms), seconds for which the bridge counts as catching up or 0,
--          for how long an event may have been stored without being merged (ms), the instance that stopped or '',
--          for how many seconds a bridge that catches up may keep alerts silent,
--          what this clock said when the command was sent, or a little before (epoch ms), or '' where not known
-- Returns 1 where a rebuild is pending, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1]
  or ARGV[2] ~= '' and not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[2], 1, true) then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
redis.call('HSET', root .. ':watermarks', ARGV[3], ARGV[4])
local now = redis.call('TIME')
if tonumber(ARGV[5]) > 0 then
  -- It keeps alerts silent while it lives, but not for ever: it may be one that is killed at every start.
  redis.call('HSETNX', root .. ':catching_up_since', ARGV[3], now[1])
  local since = redis.call('HGET', root .. ':catching_up_since', ARGV[3])
  redis.call('ZADD', root .. ':catching_up', math.min(now[1] + ARGV[5], since + ARGV[8]), ARGV[3])
  redis.call('HDEL', root .. ':merged_until', ARGV[3])
elseif ARGV[7] ~= '' then
  redis.call('HSET', root .. ':merged_until', ARGV[3], 'stopped:' .. ARGV[7])
else
  -- It speaks of when it was sent: after a partition it may come long after its bridge gave it up.
  local at = now[1] * 1000 + math.floor(now[2] / 1000)
  local merged_until = math.min(at, tonumber(ARGV[9]) or at) - ARGV[6]
  redis.call('HSET', root .. ':merged_until', ARGV[3], string.format('%.0f', merged_until))
end
return redis.call('EXISTS', root .. ':pending')
