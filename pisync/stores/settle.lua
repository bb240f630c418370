-- Records that one bridge has caught up, and compares all alerts with all streaks.
--
-- KEYS[1]  the shard's root
-- ARGV     epoch, bridge id, alert threshold
-- Returns as apply.lua does; nothing while another bridge catches up, which will compare in its turn.
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
redis.call('ZREM', root .. ':catching', ARGV[2])
local threshold = tonumber(ARGV[3])
local now = redis.call('TIME')[1]
local changes = {}
if redis.call('EXISTS', root .. ':pending') == 1
  or redis.call('ZCOUNT', root .. ':catching', now, '+inf') > 0 then
  return changes
end
local ranked = redis.call('ZRANGEBYSCORE', root .. ':by:streak', threshold, '+inf', 'WITHSCORES')
for n = 1, #ranked, 2 do
  if redis.call('SISMEMBER', root .. ':alerting', ranked[n]) == 0 then
    changes[#changes + 1] = ranked[n]
    changes[#changes + 1] = tonumber(ranked[n + 1])
    changes[#changes + 1] = 1
  end
end
for _, id in ipairs(redis.call('SMEMBERS', root .. ':alerting')) do
  local streak = tonumber(redis.call('ZSCORE', root .. ':by:streak', id) or 0)
  if streak < threshold then
    changes[#changes + 1] = id
    changes[#changes + 1] = streak
    changes[#changes + 1] = 0
  end
end
return changes
