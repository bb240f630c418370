-- Reads all that is kept of some devices of one shard, each at one moment.
--
-- KEYS[1]  the shard's epoch
-- ARGV     device ids
-- Returns arrays, each in the order of the devices and with nil where there is nothing: heads, failures, 1 or 0
--          (the alert of the rule `streak` is confirmed), the numbers of their newest changes, then what they are
--          ranked by: failures, streak, last seen.
local root = string.sub(KEYS[1], 1, -7)
local failures = {}
for n = 1, #ARGV do
  failures[n] = redis.call('GET', root .. ':failures:' .. ARGV[n])
end
local found = {
  redis.call('HMGET', root .. ':heads', unpack(ARGV)),
  failures,
  redis.call('SMISMEMBER', root .. ':alerting:streak', unpack(ARGV)),
}
for _, rank in ipairs({'changed', 'failures', 'streak', 'last_seen'}) do
  found[#found + 1] = redis.call('ZMSCORE', root .. ':by:' .. rank, unpack(ARGV))
end
return found
