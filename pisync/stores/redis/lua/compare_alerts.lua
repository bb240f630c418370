-- Compares all streaks with all alerts of the rule `streak`, open and confirmed.
--
-- KEYS[1]  the shard's epoch
-- ARGV     epoch, alert threshold, devices with an open alert in MongoDB ...
-- Returns as merge_states.lua does; nothing while any bridge catches up, which will compare in its turn,
--          unless that takes too long.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local root = string.sub(KEYS[1], 1, -7)
local threshold = tonumber(ARGV[2])
local now = redis.call('TIME')[1]
local changes = {}
if redis.call('EXISTS', root .. ':quiet') == 1 or redis.call('ZCOUNT', root .. ':catching_up', now, '+inf') > 0 then
  return changes
end
local open = {}
for n = 3, #ARGV do
  open[ARGV[n]] = true
end
local function add(id, streak, opens)
  changes[#changes + 1] = id
  changes[#changes + 1] = streak
  changes[#changes + 1] = opens
end
local ranked = redis.call('ZRANGEBYSCORE', root .. ':by:streak', threshold, '+inf', 'WITHSCORES')
for n = 1, #ranked, 2 do
  local id = ranked[n]
  if not open[id] or redis.call('SISMEMBER', root .. ':alerting:streak', id) == 0 then
    add(id, tonumber(ranked[n + 1]), 1)
  end
end
for _, id in ipairs(redis.call('SMEMBERS', root .. ':alerting:streak')) do
  open[id] = true
end
for id in pairs(open) do
  local streak = tonumber(redis.call('ZSCORE', root .. ':by:streak', id) or 0)
  if streak < threshold then
    add(id, streak, 0)
  end
end
return changes
