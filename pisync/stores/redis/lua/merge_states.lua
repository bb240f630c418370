-- Merges device states into one shard's projection, atomically; pisync/domain/device_state.py is the same rule in Python.
--
-- KEYS[1]  the shard's epoch; every key below begins as it does and shares its slot
-- ARGV     epoch, failures kept, how many more may be there, alert threshold, 1 (write ranks though nothing
--          changed, number what has no number, and look whether failures were lost) or 0, and the devices
--          (pisync/stores/redis/packing.py)
-- Heads that change get the number of this call, one more than the newest: `read_changes.lua` reads by it.
-- Times are epoch milliseconds, 0 for none; days count from 1970. Returns a flat list of what the rule `streak`
--          may have to change, of devices whose streak reaches the threshold or did: id, streak,
--          1 (alert to open) or 0 (to close), ...
local call = redis.call
if call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST the projection')
end
local pack, unpack_from, rep, bor = struct.pack, struct.unpack, string.rep, bit.bor
local root = string.sub(KEYS[1], 1, -7)
local kept, slack, threshold, anew = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local devices = ARGV[6]
local failures_prefix = root .. ':failures:'
-- Failures of a device are ascending doubles in a string with room for some more, which is zeros: Redis would
-- double its memory when it grows. A head says how many there are, and for how many there is room.
local VERSION = 1
local HEAD = '<BdddHHHddHi4i4Hi4i4Hi4i4Bc0'
local DELTA = '<i8i8i8Hi8i8Hi4i4Hi4i4Hi4i4Bc0'

-- Of the first n failures, the number of those older than a moment: most are asked for near the end.
local function older(key, n, moment)
  local low, high, step = 0, n, 1
  while low < high do
    local place = step > 0 and n - step or math.floor((low + high) / 2)
    if place < low then
      place, step = math.floor((low + high) / 2), 0
    end
    if unpack_from('<d', call('GETRANGE', key, place * 8, place * 8 + 7)) < moment then
      low, step = place + 1, 0
    else
      high, step = place, step * 2
    end
  end
  return low
end

-- Writes failures at a place, behind which none of the old ones stay. Returns how many there are, and the room.
local function write(key, place, bytes, room)
  local n = place + #bytes / 8
  if n <= room then
    call('SETRANGE', key, place * 8, bytes)
    return n, room
  end
  local first = n > kept + slack and n - kept or 0
  if first < place then
    bytes = call('GETRANGE', key, first * 8, place * 8 - 1) .. bytes
  elseif first > place then
    bytes = string.sub(bytes, (first - place) * 8 + 1)
  end
  n = n - first
  room = math.min(n + math.floor(n / 4) + 4, kept + slack)
  call('SET', key, bytes .. rep('\0', (room - n) * 8))
  return n, room
end

-- Merges failures, of which some may be there, into those that are not older than the first of them. Returns how
-- many there are, the room, and whether any is new: their number may be the same where old ones went.
local function merge(key, n, room, count, at)
  local place = older(key, n, (unpack_from('<d', devices, at)))
  local old = {unpack_from('<' .. rep('d', n - place), call('GETRANGE', key, place * 8, n * 8 - 1))}
  local new = {unpack_from('<' .. rep('d', count), devices, at)}
  local merged, size, i, j = {}, 0, 1, 1
  local olds = n - place
  while i <= olds or j <= count do
    size = size + 1
    local left, right = i <= olds and old[i], j <= count and new[j]
    if left and (not right or left <= right) then
      merged[size] = left
      i = i + 1
      if left == right then
        j = j + 1
      end
    else
      merged[size] = right
      j = j + 1
    end
  end
  if size == olds then
    return n, room, false
  end
  n, room = write(key, place, pack('<' .. rep('d', size), unpack(merged)), room)
  return n, room, true
end

-- The days of two windows, each the newest day and two words of bits for it and the 63 before it.
local function union(day, low, high, other_day, other_low, other_high)
  if other_day == 0 then
    return day, low, high
  end
  if other_day > day then
    day, low, high, other_day, other_low, other_high = other_day, other_low, other_high, day, low, high
  end
  local back = day - other_day
  if back >= 64 then
    return day, low, high
  elseif back >= 32 then
    other_low, other_high = 0, bit.lshift(other_low, back - 32)
  elseif back > 0 then
    other_high = bor(bit.lshift(other_high, back), bit.rshift(other_low, 32 - back))
    other_low = bit.lshift(other_low, back)
  end
  return day, bor(low, other_low), bor(high, other_high)
end

local ids, places, ends, count = {}, {}, {}, 0
do
  local at, size = 1, #devices
  while at <= size do
    local length, id, place = unpack_from('<HBc0', devices, at)
    count = count + 1
    at = at + length
    ids[count], places[count], ends[count] = id, place, at
  end
end
local old_heads = call('HMGET', root .. ':heads', unpack(ids))
local new_heads, unchanged, by_failures, by_streak, by_last_seen = {}, {}, {}, {}, {}
local function add(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end
local function greater(one, other)
  if one == nil or (other ~= nil and one < other) then
    return other
  end
  return one
end
-- The newest event, of which two copies came: its last members, the device's type and the duration, may be nil in one.
local function joined(one, other)
  local kept, given = cmsgpack.unpack(one), cmsgpack.unpack(other)
  local device_type, duration = greater(kept[5], given[5]), greater(kept[6], given[6])
  -- They differ where the first was deleted, and its time came again with other content.
  for at = 2, 4 do
    if kept[at] ~= given[at] then
      kept = greater(kept[at], given[at]) == kept[at] and kept or given
      break
    end
  end
  -- The members one by one behind the head of an array of six: of a table with holes it would make a map.
  return '\150' .. cmsgpack.pack(kept[1], kept[2], kept[3], kept[4], device_type, duration)
end

local suspects, streaks = {}, {}

for i = 1, count do
  local id, old = ids[i], old_heads[i]
  local success, seen, failed, failures, received, number, ok, ok_low, ok_high, bad, bad_low, bad_high, heard, heard_low, heard_high, code, event_at = unpack_from(DELTA, devices, places[i])
  local at = ends[i] - 8 * failures
  local last_success, last_seen, newest, n, room, streak, last_received, last_number = 0, 0, 0, 0, 0, 0, 0, 0
  local last_code, old_event_at = '', nil
  local ok_days, ok_days_low, ok_days_high = ok, ok_low, ok_high
  local bad_days, bad_days_low, bad_days_high = bad, bad_low, bad_high
  local heard_days, heard_days_low, heard_days_high = heard, heard_low, heard_high
  if old and string.byte(old) == VERSION then
    local _
    _, last_success, last_seen, newest, n, room, streak, last_received, last_number, ok_days, ok_days_low, ok_days_high, bad_days, bad_days_low, bad_days_high, heard_days, heard_days_low, heard_days_high, last_code, old_event_at = unpack_from(HEAD, old)
    ok_days, ok_days_low, ok_days_high = union(ok_days, ok_days_low, ok_days_high, ok, ok_low, ok_high)
    bad_days, bad_days_low, bad_days_high = union(bad_days, bad_days_low, bad_days_high, bad, bad_low, bad_high)
    heard_days, heard_days_low, heard_days_high =
      union(heard_days, heard_days_low, heard_days_high, heard, heard_low, heard_high)
  end
  local was_seen, was_n, was_streak = last_seen, math.min(n, kept), streak

  local recount = anew
  if success > last_success then
    last_success = success
    recount = recount or streak > 0
  end
  -- Of the newest failure another copy may tell the code.
  local is_known = failures == 0 or (failures == 1 and failed == newest and number <= last_number)
  local key
  if anew or not is_known or (recount and newest > last_success) then
    key = failures_prefix .. id
    if n > 0 and call('STRLEN', key) ~= room * 8 then
      -- They were lost, or are not what was written: what is merged now is all that is known.
      newest, n, room, streak, last_number, last_code = 0, 0, 0, 0, 0, ''
      is_known, recount = failures == 0, true
    end
  end
  if not is_known then
    if failed > newest or (failed == newest and number > last_number) then
      last_number, last_code = number, code
    end
    local first = unpack_from('<d', devices, at)
    if first > newest then
      n, room = write(key, n, string.sub(devices, at, at + 8 * failures - 1), room)
      if first > last_success then
        streak = streak + failures
      else
        recount = recount or failed > last_success
      end
    else
      local changed
      n, room, changed = merge(key, n, room, failures, at)
      recount = recount or changed
    end
    newest = math.max(newest, failed)
  end
  if newest <= last_success then
    streak = 0
  elseif recount then
    streak = n - older(key, n, last_success + 0.5)
  end
  streak = math.min(streak, kept)
  local event
  if seen > last_seen then
    last_seen, event = seen, string.sub(devices, event_at, at - 1)
  else
    event = string.sub(old, old_event_at)
    if seen == last_seen then
      local given = string.sub(devices, event_at, at - 1)
      if given ~= event then
        event = joined(event, given)
      end
    end
  end

  local total = math.min(n, kept)
  if total > 0 then
    if total ~= was_n or anew then
      add(by_failures, total, id)
    end
    if streak ~= was_streak or was_n == 0 or anew then
      add(by_streak, streak, id)
    end
    if last_seen ~= was_seen or was_n == 0 or anew then
      add(by_last_seen, last_seen, id)
    end
    if streak >= threshold or was_streak >= threshold then
      suspects[#suspects + 1], streaks[#streaks + 1] = id, streak
    end
  end
  if received > last_received then
    last_received = received
  end
  local head = pack(HEAD .. 'c0', VERSION, last_success, last_seen, newest, n, room, streak, last_received, last_number, ok_days, ok_days_low, ok_days_high, bad_days, bad_days_low, bad_days_high, heard_days, heard_days_low, heard_days_high, #last_code, last_code, event)
  if head ~= old then
    add(new_heads, id, head)
  elseif anew then
    unchanged[#unchanged + 1] = id
  end
end

local function write_all(command, key, values)
  if #values > 0 then
    call(command, root .. key, unpack(values))
  end
end
write_all('HSET', ':heads', new_heads)
write_all('ZADD', ':by:failures', by_failures)
write_all('ZADD', ':by:streak', by_streak)
write_all('ZADD', ':by:last_seen', by_last_seen)
if #new_heads > 0 or #unchanged > 0 then
  -- No key of its own counts: it might be lost alone, and then numbers would go back while devices keep theirs.
  local newest = call('ZREVRANGE', root .. ':by:changed', 0, 0, 'WITHSCORES')[2] or 0
  -- Redis takes longer for a number than for its text.
  local number, changed, missing = string.format('%.0f', newest + 1), {}, {'NX'}
  for i = 1, #new_heads, 2 do
    changed[i], changed[i + 1] = number, new_heads[i]
  end
  for i = 1, #unchanged do
    add(missing, number, unchanged[i])
  end
  write_all('ZADD', ':by:changed', changed)
  if #unchanged > 0 then
    write_all('ZADD', ':by:changed', missing)
  end
end

local changes = {}
-- While anyone catches up, half a history would raise alerts that the whole one does not.
if #suspects == 0 or call('EXISTS', root .. ':quiet') == 1
  or call('ZCOUNT', root .. ':catching_up', call('TIME')[1], '+inf') > 0 then
  return changes
end
local alerting = call('SMISMEMBER', root .. ':alerting:streak', unpack(suspects))
for i = 1, #suspects do
  local opens = streaks[i] >= threshold
  if opens ~= (alerting[i] == 1) then
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = suspects[i], streaks[i], opens and 1 or 0
  end
end
return changes
