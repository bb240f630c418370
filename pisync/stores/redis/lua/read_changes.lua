-- Reads what changed in one shard since a position, or the next part of all that it holds.
--
-- KEYS[1]  the shard's epoch
-- ARGV     number up to which changes are read or '' for the newest, cursor of HSCAN or '' once all was looked
--          through, limit
-- Returns epoch (nil: there is no projection), number of the newest change, 1 or 0 (a rebuild is pending), how many
--          devices there are, how many of them have a number, number up to which changes are read now, how many
--          devices changed beyond it, cursor ('0': all was looked through), then id and head of each device.
local call = redis.call
local root = string.sub(KEYS[1], 1, -7)
local heads, by_changed = root .. ':heads', root .. ':by:changed'
local found = {
  call('GET', KEYS[1]),
  call('ZREVRANGE', by_changed, 0, 0, 'WITHSCORES')[2] or '0',
  call('EXISTS', root .. ':pending'),
  call('HLEN', heads),
  call('ZCARD', by_changed),
}
local function beyond(number)
  return call('ZCOUNT', by_changed, '(' .. number, '+inf')
end
if ARGV[2] ~= '' then
  local part = call('HSCAN', heads, ARGV[2], 'COUNT', ARGV[3])
  found[6] = ARGV[1] == '' and found[2] or ARGV[1]
  found[7], found[8] = beyond(found[6]), part[1]
  for n = 1, #part[2] do
    found[n + 8] = part[2][n]
  end
  return found
end

local limit = tonumber(ARGV[3])
local changed = call('ZRANGEBYSCORE', by_changed, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
local ids, reached = {}, found[2]
for n = 1, #changed, 2 do
  ids[#ids + 1] = changed[n]
end
if #ids == limit then
  -- Those of the last number, too, of which there may be more: as many as one call merges.
  reached = changed[#changed]
  while #ids > 0 and changed[2 * #ids] == reached do
    ids[#ids] = nil
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', by_changed, reached, reached)) do
    ids[#ids + 1] = id
  end
end
found[6], found[7], found[8] = reached, beyond(reached), '0'
if #ids > 0 then
  for n, head in ipairs(call('HMGET', heads, unpack(ids))) do
    if head then
      found[#found + 1] = ids[n]
      found[#found + 1] = head
    end
  end
end
return found
