-- One shard's part of a page of failing devices, in descending order of (score, id), and whether it is complete.
--
-- KEYS[1]  the shard's epoch
-- ARGV     order (failures, streak or last_seen), more than, since or '', limit, failures kept, after score or '',
--          after id, how old what a bridge says of itself may be (ms), then for each bridge that MongoDB knows: id,
--          instance
-- Returns a flat list: 1 or 0 (there is a projection, and no rebuild is pending), the bridges whose events it may
--          lack, then for each device:
--          id, score, failures, failures since, streak, last failure, last success, last seen; nil where unknown
local root = string.sub(KEYS[1], 1, -7)
local built = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('EXISTS', root .. ':pending') == 0

local behind = {}
do
  local time = redis.call('TIME')
  local now, young = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[8])
  local instances = {}
  -- Those that only Redis knows count as well: it may have gone back to when they were there.
  for _, id in ipairs(redis.call('HKEYS', root .. ':watermarks')) do
    instances[id] = ''
  end
  for n = 9, #ARGV, 2 do
    instances[ARGV[n]] = ARGV[n + 1]
  end
  for id, instance in pairs(instances) do
    local said = redis.call('HGET', root .. ':merged_until', id)
    local stopped = said and instance ~= '' and said == 'stopped:' .. instance
    local merged_until = said and tonumber(said)
    -- A time ahead of this clock was written before the clock was set back.
    if not stopped and not (merged_until and math.abs(now - merged_until) <= young) then
      behind[#behind + 1] = id
    end
  end
end

-- As the sorted sets do it, by bytes: Lua's own < goes by the locale of the Redis process.
local function precedes(one, other)
  for n = 1, math.min(#one, #other) do
    local left, right = one:byte(n), other:byte(n)
    if left ~= right then
      return left < right
    end
  end
  return #one < #other
end

local order, more_than, since, limit, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local ranking = root .. ':by:' .. order
local rank = 0

if ARGV[6] ~= '' then
  -- The first rank behind the place where the last page ended, whether or not that device is still there.
  local score, id = tonumber(ARGV[6]), ARGV[7]
  local low, high = 0, redis.call('ZCARD', ranking)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at = redis.call('ZREVRANGE', ranking, middle, middle, 'WITHSCORES')
    local at_score = tonumber(at[2])
    if at_score > score or (at_score == score and not precedes(at[1], id)) then
      low = middle + 1
    else
      high = middle
    end
  end
  rank = low
end

-- When one of a device's failures was, by its place; 0 where it was lost.
local function failure(id, place)
  local bytes = redis.call('GETRANGE', root .. ':failures:' .. id, place * 8, place * 8 + 7)
  return #bytes == 8 and struct.unpack('<d', bytes) or 0
end

-- How many of the newest `failures` of n are not older than `since`; 0 where they are not more than is asked for.
local function recent(id, n, failures, newest)
  if newest < since or failures <= more_than or failure(id, n - more_than - 1) < since then
    return 0
  end
  local low, high = n - failures, n - more_than - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if failure(id, middle) < since then
      low = middle + 1
    else
      high = middle
    end
  end
  return n - low
end

local rows = {built and 1 or 0, behind}
local found = 0
local step = math.min(64, limit + 8)
while found < limit do
  local chunk = redis.call('ZREVRANGE', ranking, rank, rank + step - 1, 'WITHSCORES')
  if #chunk == 0 then
    break
  end
  local ids = {}
  for n = 1, #chunk, 2 do
    ids[#ids + 1] = chunk[n]
  end
  local heads = redis.call('HMGET', root .. ':heads', unpack(ids))
  for n = 1, #ids do
    local id, score, head = ids[n], chunk[2 * n], heads[n]
    local version, last_success, last_seen, newest, total, room, streak
    if head then
      -- Its beginning, as merge_states.lua packs it.
      version, last_success, last_seen, newest, total, room, streak = struct.unpack('<BdddHHH', head)
    end
    local failures = tonumber(score)
    if order ~= 'failures' then
      failures = head and math.min(total, kept) or tonumber(redis.call('ZSCORE', root .. ':by:failures', id) or 0)
    elseif failures <= more_than then
      return rows -- no later device has more
    end
    local since_then = failures
    if since then
      since_then = head and recent(id, total, math.min(total, kept), newest) or 0
    end
    if since_then > more_than then
      local n_rows = #rows
      rows[n_rows + 1] = id
      rows[n_rows + 2] = score
      rows[n_rows + 3] = failures
      rows[n_rows + 4] = since_then
      rows[n_rows + 5] = streak or order == 'streak' and score
      rows[n_rows + 6] = head and newest > 0 and newest
      rows[n_rows + 7] = head and last_success > 0 and last_success
      rows[n_rows + 8] = last_seen or false
      found = found + 1
      if found == limit then
        break
      end
    end
  end
  rank = rank + step
end
return rows
