-- One shard's part of a page of failing devices, in descending order of (score, id), and whether it is complete.
--
-- KEYS[1]  the shard's root
-- ARGV     order (failures, streak or last_seen), more than, since or '', limit, after score or '', after id,
--          how old what a bridge says of itself may be (ms), then for each bridge that MongoDB knows: id, instance
-- Returns a flat list: 1 or 0 (there is a projection, and no rebuild is pending), the bridges whose events it may
--          lack, then for each device:
--          id, score, failures, failures since, streak, last failure, last success, last seen; nil where unknown
local root = KEYS[1]
local built = redis.call('EXISTS', root .. ':epoch') == 1 and redis.call('EXISTS', root .. ':pending') == 0

local behind = {}
do
  local time = redis.call('TIME')
  local now, young = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[7])
  local instances = {}
  -- Those that only Redis knows count as well: it may have gone back to when they were there.
  for _, id in ipairs(redis.call('HKEYS', root .. ':watermarks')) do
    instances[id] = ''
  end
  for n = 8, #ARGV, 2 do
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

local order, more_than, since, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local ranking = root .. ':by:' .. order
local rank = 0

if ARGV[5] ~= '' then
  -- The first rank behind the place where the last page ended, whether or not that device is still there.
  local score, id = tonumber(ARGV[5]), ARGV[6]
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

local rows = {built and 1 or 0, behind}
local found = 0
local step = math.min(64, limit + 8)
while found < limit do
  local chunk = redis.call('ZREVRANGE', ranking, rank, rank + step - 1, 'WITHSCORES')
  if #chunk == 0 then
    break
  end
  for n = 1, #chunk, 2 do
    local id, score = chunk[n], chunk[n + 1]
    local failures = score
    if order ~= 'failures' then
      failures = redis.call('ZSCORE', root .. ':by:failures', id) or 0
    elseif tonumber(failures) <= more_than then
      return rows -- no later device has more
    end
    if tonumber(failures) > more_than then
      local recent = failures
      if since ~= '' then
        recent = redis.call('ZCOUNT', root .. ':failures:' .. id, since, '+inf')
      end
      if tonumber(recent) > more_than then
        local facts = redis.call('HMGET', root .. ':device:' .. id, 'last_success', 'last_seen')
        local n_rows = #rows
        rows[n_rows + 1] = id
        rows[n_rows + 2] = score
        rows[n_rows + 3] = failures
        rows[n_rows + 4] = recent
        rows[n_rows + 5] = order == 'streak' and score or redis.call('ZSCORE', root .. ':by:streak', id)
        rows[n_rows + 6] = redis.call('ZREVRANGE', root .. ':failures:' .. id, 0, 0)[1] or false
        rows[n_rows + 7] = facts[1]
        rows[n_rows + 8] = facts[2]
        found = found + 1
        if found == limit then
          break
        end
      end
    end
  end
  rank = rank + step
end
return rows
