-- Removes keys of one shard, unless the shard belongs to a projection again.
--
-- KEYS[1]  the shard's epoch
-- ARGV     the keys; each shares its slot
-- Returns how many were removed.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
return redis.call('UNLINK', unpack(ARGV))
