-- One shard's part of a page of failing devices, in descending order of (score, id).
--
-- KEYS[1]  the shard's root
-- ARGV     order (failures, streak or last_seen), more than, since or '', limit, after score or '', after id
-- Returns a flat list: id, score, failures, failures since, ...
local root = KEYS[1]
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
    if at_score > score or (at_score == score and at[1] >= id) then
      low = middle + 1
    else
      high = middle
    end
  end
  rank = low
end

local rows = {}
local found = 0
local step = 64
while found < limit do
  local chunk = redis.call('ZREVRANGE', ranking, rank, rank + step - 1, 'WITHSCORES')
  if #chunk == 0 then
    break
  end
  for n = 1, #chunk, 2 do
    local id, score = chunk[n], chunk[n + 1]
    local failures = score
    if order ~= 'failures' then
      failures = redis.call('ZSCORE', root .. ':by:failures', id)
    elseif tonumber(failures) <= more_than then
      return rows -- no later device has more
    end
    if tonumber(failures) > more_than then
      local recent = failures
      if since ~= '' then
        recent = redis.call('ZCOUNT', root .. ':failures:' .. id, since, '+inf')
      end
      if tonumber(recent) > more_than then
        rows[#rows + 1] = id
        rows[#rows + 1] = score
        rows[#rows + 1] = failures
        rows[#rows + 1] = recent
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
