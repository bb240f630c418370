-- Begins one shard of a new projection: it has the new epoch and is incomplete from one moment on.
--
-- KEYS[1]  the shard's epoch
-- ARGV     the new epoch, the history (master_replid) in which what was to be removed is removed or '' where not known,
--          bridge id, seconds for which alerts may stay silent or 0 to leave that as it is, the devices whose alert is
--          open ...
if ARGV[2] ~= '' and not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[2], 1, true) then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
if tonumber(ARGV[4]) > 0 then
  redis.call('SET', root .. ':quiet', 1, 'EX', ARGV[4])
end
redis.call('SET', root .. ':pending', ARGV[3])
for n = 5, #ARGV do
  redis.call('SADD', root .. ':alerting:streak', ARGV[n])
end
redis.call('SET', KEYS[1], ARGV[1])
return redis.call('DEL', root .. ':dropped')
