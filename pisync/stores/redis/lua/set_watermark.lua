-- Writes down how far one bridge's events are merged, beside the data, so that both are lost together.
--
-- KEYS[1]  the shard's root
-- ARGV     epoch, bridge id, low watermark (epoch ms), seconds for which the bridge counts as catching up or 0
-- Returns 1 where a rebuild is pending, else 0.
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
redis.call('HSET', root .. ':watermarks', ARGV[2], ARGV[3])
if tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', root .. ':catching_up', redis.call('TIME')[1] + ARGV[4], ARGV[2])
end
return redis.call('EXISTS', root .. ':pending')
