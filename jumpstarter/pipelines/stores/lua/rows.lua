-- Queues of rows, joins and counts. One script: ARGV[1] names what to do; all keys begin with KEYS[1], one hash slot.
-- Of each queue, after '<KEYS[1]>rows:<queue>:':
--   waiting  list of keys            data   hash: key -> value as JSON       tries  hash: key -> attempts that count
--   delayed  zset: key by due time   claims hash: fence -> its keys, packed  leases zset: fence by its end
--   dead     hash: key -> reason     died   zset: key by time                seen   zset: key that is done, by when it is forgotten
--   cursor   string                  parts:<key>  hash: part -> JSON         open   zset: join by deadline   fired  zset: join
-- and '<KEYS[1]>progress:<pipeline>' a hash of counts, '<KEYS[1]>fences' a counter.

local ROOT = KEYS[1]
local CHUNK = 1000 -- arguments that fit on Lua's stack with much room to spare

local function time()
  if ARGV[2] ~= '' then return tonumber(ARGV[2]) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end

local now = time()
local function text(number) return string.format('%.6f', number) end
local function of(queue, part) return ROOT .. 'rows:' .. queue .. ':' .. part end

local function each_chunk(list, work)
  for first = 1, #list, CHUNK do work({unpack(list, first, math.min(#list, first + CHUNK - 1))}) end
end

-- rows: key, JSON, key, JSON …
local function put(queue, rows, after)
  local data, seen, new = of(queue, 'data'), of(queue, 'seen'), {}
  local remembers = redis.call('EXISTS', seen) == 1
  for n = 1, #rows, 2 do
    local expires = remembers and redis.call('ZSCORE', seen, rows[n])
    if not (expires and tonumber(expires) > now) and redis.call('HSETNX', data, rows[n], rows[n + 1]) == 1 then
      new[#new + 1] = rows[n]
    end
  end
  if after > 0 then
    for _, key in ipairs(new) do redis.call('ZADD', of(queue, 'delayed'), text(now + after), key) end
  else
    each_chunk(new, function(keys) redis.call('RPUSH', of(queue, 'waiting'), unpack(keys)) end)
  end
  return #new
end

local function die(queue, key, reason)
  redis.call('HSET', of(queue, 'dead'), key, reason)
  redis.call('ZADD', of(queue, 'died'), text(now), key)
end

-- One row that was tried goes back: to the end, or to the front when its lease ran out.
local function back(queue, key, after, reason, most, push)
  local tries = redis.call('HINCRBY', of(queue, 'tries'), key, 1)
  if tries >= most then
    die(queue, key, reason ~= '' and reason or 'tried ' .. tries .. ' times')
  elseif after > 0 then
    redis.call('ZADD', of(queue, 'delayed'), text(now + after), key)
  else
    redis.call(push, of(queue, 'waiting'), key)
  end
end

local function take_back(queue, most)
  for _, fence in ipairs(redis.call('ZRANGEBYSCORE', of(queue, 'leases'), '-inf', text(now))) do
    local keys = cmsgpack.unpack(redis.call('HGET', of(queue, 'claims'), fence))
    for n = #keys, 1, -1 do back(queue, keys[n], 0, 'its lease ran out', most, 'LPUSH') end
    redis.call('HDEL', of(queue, 'claims'), fence)
    redis.call('ZREM', of(queue, 'leases'), fence)
  end
  local due = redis.call('ZRANGEBYSCORE', of(queue, 'delayed'), '-inf', text(now))
  each_chunk(due, function(keys)
    redis.call('ZREM', of(queue, 'delayed'), unpack(keys))
    redis.call('RPUSH', of(queue, 'waiting'), unpack(keys))
  end)
  redis.call('ZREMRANGEBYSCORE', of(queue, 'seen'), '-inf', text(now))
end

local function claim(queue, limit, lease, most, least)
  take_back(queue, most)
  local waiting = redis.call('LLEN', of(queue, 'waiting'))
  if waiting < least then
    local moment
    for _, part in ipairs({'delayed', 'leases'}) do
      local first = redis.call('ZRANGE', of(queue, part), 0, 0, 'WITHSCORES')[2]
      if first and (not moment or tonumber(first) < moment) then moment = tonumber(first) end
    end
    return {0, moment and text(moment - now) or '', waiting}
  end
  local keys = redis.call('LPOP', of(queue, 'waiting'), limit)
  local fence = redis.call('INCR', ROOT .. 'fences')
  redis.call('HSET', of(queue, 'claims'), fence, cmsgpack.pack(keys))
  redis.call('ZADD', of(queue, 'leases'), text(now + lease), fence)
  local values, tries = {}, {}
  local counts = redis.call('EXISTS', of(queue, 'tries')) == 1
  each_chunk(keys, function(some)
    for _, value in ipairs(redis.call('HMGET', of(queue, 'data'), unpack(some))) do values[#values + 1] = value end
    if counts then
      for _, count in ipairs(redis.call('HMGET', of(queue, 'tries'), unpack(some))) do tries[#tries + 1] = count or '0' end
    end
  end)
  return {fence, keys, values, tries}
end

-- Joins

local function fire(join, key, complete)
  local parts, found = {}, redis.call('HGETALL', of(join.queue, 'parts:' .. key))
  for n = 1, #found, 2 do parts[#parts + 1] = cjson.encode(found[n]) .. ':' .. found[n + 1] end
  local value = '{"key":' .. cjson.encode(key) .. ',"parts":{' .. table.concat(parts, ',') .. '},"complete":'
    .. (complete and 'true' or 'false') .. '}'
  redis.call('DEL', of(join.queue, 'parts:' .. key))
  redis.call('ZREM', of(join.queue, 'open'), key)
  redis.call('ZREMRANGEBYSCORE', of(join.queue, 'fired'), '-inf', text(now))
  redis.call('ZADD', of(join.queue, 'fired'), text(now + join.remember), key)
  put(complete and join.queue or join.timed_out, {key, value}, 0)
end

local function arrive(part)
  local join, key = part.join, part.key
  local fired = redis.call('ZSCORE', of(join.queue, 'fired'), key)
  if fired and tonumber(fired) > now then
    if join.late ~= '' then
      put(join.late, {key .. '/' .. part.name, '{"key":' .. cjson.encode(key) .. ',"part":' .. cjson.encode(part.name)
        .. ',"value":' .. part.value .. '}'}, 0)
    end
    return 'late'
  end
  local parts = of(join.queue, 'parts:' .. key)
  if redis.call('HSETNX', parts, part.name, part.value) == 0 then return 'again' end
  if redis.call('HLEN', parts) >= join.expect then
    fire(join, key, true)
    return 'fired'
  end
  if join.timeout > 0 then redis.call('ZADD', of(join.queue, 'open'), 'NX', text(now + join.timeout), key) end
  return 'waiting'
end

local function add(pipeline, counts)
  for name, count in pairs(counts) do redis.call('HINCRBYFLOAT', ROOT .. 'progress:' .. pipeline, name, count) end
end

-- Settling

local function finish(queue, keys, remember)
  each_chunk(keys, function(some)
    redis.call('HDEL', of(queue, 'data'), unpack(some))
    redis.call('HDEL', of(queue, 'tries'), unpack(some))
  end)
  if remember > 0 then
    for _, key in ipairs(keys) do redis.call('ZADD', of(queue, 'seen'), text(now + remember), key) end
  end
end

local function settle(s)
  local queue = s.queue
  local packed = redis.call('HGET', of(queue, 'claims'), s.fence)
  if not packed then return 0 end
  local held, keys, rest = {}, cmsgpack.unpack(packed), {}
  if s.keys then
    for _, key in ipairs(keys) do held[key] = true end
    local mine = {}
    for _, key in ipairs(s.keys) do
      if held[key] then mine[#mine + 1] = key; held[key] = nil end
    end
    for _, key in ipairs(keys) do
      if held[key] then rest[#rest + 1] = key end
    end
    keys = mine
  end
  local other, done, first = {}, {}, {}
  for _, one in ipairs(s.back) do other[one.key] = one end
  for _, one in ipairs(s.dead) do other[one[1]] = one end
  for _, key in ipairs(keys) do
    local one = other[key]
    if not one then
      done[#done + 1] = key
    elseif not one.key then
      redis.call('HINCRBY', of(queue, 'tries'), key, 1)
      die(queue, key, one[2])
    elseif one.counted then
      back(queue, key, one.after, one.reason, s.most, 'RPUSH')
    elseif one.after > 0 then
      redis.call('ZADD', of(queue, 'delayed'), text(now + one.after), key)
    else
      first[#first + 1] = key
    end
  end
  for n = #first, 1, -1 do redis.call('LPUSH', of(queue, 'waiting'), first[n]) end
  finish(queue, done, s.remember)
  if #rest > 0 then
    redis.call('HSET', of(queue, 'claims'), s.fence, cmsgpack.pack(rest))
  else
    redis.call('HDEL', of(queue, 'claims'), s.fence)
    redis.call('ZREM', of(queue, 'leases'), s.fence)
  end
  for _, one in ipairs(s.puts) do put(one.queue, one.rows, one.after) end
  for _, part in ipairs(s.parts) do arrive(part) end
  add(s.pipeline, s.counts)
  return 1
end

local function revive(queue, keys)
  local count = 0
  for _, key in ipairs(keys or redis.call('ZRANGE', of(queue, 'died'), 0, -1)) do
    if redis.call('HDEL', of(queue, 'dead'), key) == 1 then
      redis.call('ZREM', of(queue, 'died'), key)
      redis.call('HDEL', of(queue, 'tries'), key)
      redis.call('RPUSH', of(queue, 'waiting'), key)
      count = count + 1
    end
  end
  return count
end

local function dead(queue, limit)
  local found = {}
  local died = redis.call('ZRANGE', of(queue, 'died'), 0, limit - 1, 'WITHSCORES')
  for n = 1, #died, 2 do
    local key = died[n]
    found[#found + 1] = {key, redis.call('HGET', of(queue, 'data'), key), redis.call('HGET', of(queue, 'dead'), key),
      redis.call('HGET', of(queue, 'tries'), key) or '0', died[n + 1]}
  end
  return found
end

local function counts(queue)
  local leased = 0
  for _, packed in ipairs(redis.call('HVALS', of(queue, 'claims'))) do leased = leased + #cmsgpack.unpack(packed) end
  return {redis.call('LLEN', of(queue, 'waiting')), redis.call('ZCARD', of(queue, 'delayed')), leased,
    redis.call('ZCARD', of(queue, 'died'))}
end

local what, args = ARGV[1], cjson.decode(ARGV[3])
if what == 'put' then return put(args.queue, args.rows, args.after) end
if what == 'claim' then return claim(args.queue, args.limit, args.lease, args.most, args.least) end
if what == 'settle' then return settle(args) end
if what == 'arrive' then return arrive(args) end
if what == 'counts' then return counts(args.queue) end
if what == 'dead' then return dead(args.queue, args.limit) end
if what == 'revive' then return revive(args.queue, args.keys) end
if what == 'add' then return add(args.pipeline, args.counts) end
if what == 'renew' then
  if redis.call('HEXISTS', of(args.queue, 'claims'), args.fence) == 0 then return 0 end
  redis.call('ZADD', of(args.queue, 'leases'), text(now + args.lease), args.fence)
  return 1
end
if what == 'feed' then
  if (redis.call('GET', of(args.queue, 'cursor')) or '') ~= args.before then return 0 end
  redis.call('SET', of(args.queue, 'cursor'), args.after_cursor)
  put(args.queue, args.rows, args.after)
  return 1
end
if what == 'expire' then
  local late = redis.call('ZRANGEBYSCORE', of(args.queue, 'open'), '-inf', text(now))
  for _, key in ipairs(late) do fire(args, key, false) end
  return #late
end
return redis.error_reply('ERR unknown call ' .. what)
