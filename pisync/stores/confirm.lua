-- Records which alerts were opened or closed, and returns those that are out of date again.
--
-- KEYS[1]  the shard's root
-- ARGV     alert threshold, then for each device: id, 1 (opened) or 0 (closed)
-- Returns as apply.lua does.
local root = KEYS[1]
local threshold = tonumber(ARGV[1])
local changes = {}
for i = 2, #ARGV, 2 do
  local id, opened = ARGV[i], ARGV[i + 1] == '1'
  local device = root .. ':device:' .. id
  if opened then
    redis.call('HSET', device, 'alerting', '1')
  else
    redis.call('HDEL', device, 'alerting')
  end
  local streak = tonumber(redis.call('ZSCORE', root .. ':by:streak', id) or 0)
  if opened ~= (streak >= threshold) then
    changes[#changes + 1] = id
    changes[#changes + 1] = streak
    changes[#changes + 1] = opened and 0 or 1
  end
end
return changes
