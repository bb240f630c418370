-- Declares one shard of a rebuilt projection complete.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
return redis.call('DEL', root .. ':pending', root .. ':quiet')
