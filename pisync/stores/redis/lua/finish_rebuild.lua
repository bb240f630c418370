-- Declares one shard of a rebuilt projection complete.
--
-- KEYS[1]  the shard's root
-- ARGV     epoch
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
return redis.call('DEL', root .. ':pending', root .. ':quiet')
