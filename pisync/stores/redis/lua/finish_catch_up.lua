-- Records that one bridge has caught up.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch, bridge id
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
redis.call('HDEL', root .. ':catching_up_since', ARGV[2])
return redis.call('ZREM', root .. ':catching_up', ARGV[2])
