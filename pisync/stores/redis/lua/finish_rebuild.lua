-- Declares one shard of a rebuilt projection complete.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch, the history (master_replid) in which it is so or '' where not known
if redis.call('GET', KEYS[1]) ~= ARGV[1]
  or ARGV[2] ~= '' and not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[2], 1, true) then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
return redis.call('DEL', root .. ':pending', root .. ':quiet')
