-- Records that one bridge has caught up.
--
-- KEYS[1]  the shard's root
-- ARGV     epoch, bridge id
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
redis.call('HDEL', root .. ':catching_up_since', ARGV[2])
return redis.call('ZREM', root .. ':catching_up', ARGV[2])
