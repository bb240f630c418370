-- Merges device states into one shard's projection, atomically; pisync/domain/device_state.py is the same rule in Python.
--
-- KEYS[1]  the shard's root, such as pisync:{07}; every key below begins with it and shares its slot
-- ARGV     epoch, failures kept, alert threshold, and the devices in MessagePack (one argument, because Redis
--          and its client take time for each): an array of
--          [id, last success or nil, newest event's time, newest event, [failure times]]
-- Times are epoch milliseconds. Returns a flat list of what the rule `streak` may have to change:
--          id, streak, 1 (alert to open) or 0 (to close), ...
local root = KEYS[1]
if redis.call('GET', root .. ':epoch') ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local call = redis.call
local kept_max = tonumber(ARGV[2])
local threshold = tonumber(ARGV[3])
local now = call('TIME')[1]
-- While anyone catches up, half a history would raise alerts that the whole one does not.
local quiet = call('EXISTS', root .. ':quiet') == 1 or call('ZCOUNT', root .. ':catching_up', now, '+inf') > 0
local device_prefix, failures_prefix = root .. ':device:', root .. ':failures:'
local by_failures, by_streak, by_last_seen = root .. ':by:failures', root .. ':by:streak', root .. ':by:last_seen'
local all_alerting = root .. ':alerting:streak'
local changes = {}
-- The last members of a newest event's JSON, the device's type and the duration, may be null in one of two copies.
local members = '^(.*),([^,]*),([^,]*)%]$'
local function enriched(kept, event)
  if not kept or kept == event then
    return event
  end
  local head, device_type, duration = string.match(kept, members)
  local _, other_type, other_duration = string.match(event, members)
  device_type = device_type == 'null' and other_type or device_type
  duration = duration == 'null' and other_duration or duration
  return head .. ',' .. device_type .. ',' .. duration .. ']'
end
for _, state in ipairs(cmsgpack.unpack(ARGV[4])) do
  local id, success, seen, event, failed = state[1], state[2], state[3], state[4], state[5]
  local device, failures = device_prefix .. id, failures_prefix .. id
  local known = call('HMGET', device, 'last_success', 'last_seen')
  local last_success, last_seen = known[1], known[2]
  local succeeds = success and (not last_success or tonumber(success) > tonumber(last_success))
  local is_newest = not last_seen or tonumber(seen) > tonumber(last_seen)
  if not is_newest and tonumber(seen) == tonumber(last_seen) then
    local kept = call('HGET', device, 'last_event')
    event = enriched(kept, event)
    is_newest = event ~= kept
  end
  if succeeds then
    last_success = success
  end
  if is_newest then
    last_seen = seen
  end
  if succeeds and is_newest then
    call('HSET', device, 'last_success', success, 'last_seen', seen, 'last_event', event)
  elseif succeeds then
    call('HSET', device, 'last_success', success)
  elseif is_newest then
    call('HSET', device, 'last_seen', seen, 'last_event', event)
  end
  if #failed > 0 then
    local scored = {}
    for n, moment in ipairs(failed) do
      scored[2 * n - 1], scored[2 * n] = moment, moment
    end
    call('ZADD', failures, unpack(scored))
  end

  local total = call('ZCARD', failures)
  if total > 0 then
    if total > kept_max then
      call('ZREMRANGEBYRANK', failures, 0, total - kept_max - 1)
      total = kept_max
    end
    local streak = total
    if last_success then
      streak = call('ZCOUNT', failures, '(' .. last_success, '+inf')
    end
    call('ZADD', by_failures, total, id)
    call('ZADD', by_streak, streak, id)
    call('ZADD', by_last_seen, last_seen, id)
    if not quiet then
      local alerting = call('SISMEMBER', all_alerting, id) == 1
      if alerting ~= (streak >= threshold) then
        changes[#changes + 1] = id
        changes[#changes + 1] = streak
        changes[#changes + 1] = alerting and 0 or 1
      end
    end
  end
end
return changes
