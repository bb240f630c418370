-- Records which alerts of the rule `streak` were opened or closed, and returns those out of date again.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch, alert threshold, then for each device: id, 1 (opened) or 0 (closed)
-- Returns as merge_states.lua does.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
local threshold = tonumber(ARGV[2])
local now = redis.call('TIME')[1]
local quiet = redis.call('EXISTS', root .. ':quiet') == 1
  or redis.call('ZCOUNT', root .. ':catching_up', now, '+inf') > 0
local changes = {}
for i = 3, #ARGV, 2 do
  local id, opened = ARGV[i], ARGV[i + 1] == '1'
  redis.call(opened and 'SADD' or 'SREM', root .. ':alerting:streak', id)
  local streak = tonumber(redis.call('ZSCORE', root .. ':by:streak', id) or 0)
  if not quiet and opened ~= (streak >= threshold) then
    changes[#changes + 1] = id
    changes[#changes + 1] = streak
    changes[#changes + 1] = opened and 0 or 1
  end
end
return changes
