-- Joins device states into one shard's projection, atomically; pisync/streaks.py is the same rule in Python.
--
-- KEYS[1]  the shard's root, such as pisync:{07}; every key below begins with it and shares its slot
-- ARGV     epoch, failures kept, alert threshold, then for each device:
--          id, last success or '', newest event's time, newest event, number of failures, failure times ...
-- Times are epoch milliseconds. Returns a flat list: id, streak, 1 (alert to open) or 0 (to close), ...
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local kept_max = tonumber(ARGV[2])
local threshold = tonumber(ARGV[3])
local now = redis.call('TIME')[1]
-- While anyone catches up, half a history would raise alerts that the whole one does not.
local quiet = redis.call('EXISTS', root .. ':pending') == 1
  or redis.call('ZCOUNT', root .. ':catching', now, '+inf') > 0
local changes = {}
local i = 4
while i <= #ARGV do
  local id, success, seen, event, count = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local device = root .. ':device:' .. id
  local failures = root .. ':failures:' .. id
  local known = redis.call('HMGET', device, 'last_success', 'last_seen')
  local last_success = known[1]

  if success ~= '' and (not last_success or tonumber(success) > tonumber(last_success)) then
    last_success = success
    redis.call('HSET', device, 'last_success', success)
  end
  local newer = not known[2] or tonumber(seen) > tonumber(known[2])
  if newer then
    redis.call('HSET', device, 'last_seen', seen, 'last_event', event)
  end
  if count > 0 then
    local pairs_of = {}
    for n = i + 5, i + 4 + count do
      pairs_of[#pairs_of + 1] = ARGV[n]
      pairs_of[#pairs_of + 1] = ARGV[n]
    end
    redis.call('ZADD', failures, unpack(pairs_of))
  end
  i = i + 5 + count

  local total = redis.call('ZCARD', failures)
  if total > 0 then
    if total > kept_max then
      redis.call('ZREMRANGEBYRANK', failures, 0, total - kept_max - 1)
      total = kept_max
    end
    local streak = total
    if last_success then
      streak = redis.call('ZCOUNT', failures, '(' .. last_success, '+inf')
    end
    redis.call('ZADD', root .. ':by:failures', total, id)
    redis.call('ZADD', root .. ':by:streak', streak, id)
    redis.call('ZADD', root .. ':by:last_seen', newer and seen or known[2], id)
    if not quiet then
      local alerting = redis.call('SISMEMBER', root .. ':alerting', id) == 1
      if alerting ~= (streak >= threshold) then
        changes[#changes + 1] = id
        changes[#changes + 1] = streak
        changes[#changes + 1] = alerting and 0 or 1
      end
    end
  end
end
return changes
