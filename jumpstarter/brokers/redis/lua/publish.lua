-- Publish a batch, all of it or nothing, and once however often it is sent.
--
-- KEYS 1 jumpstarter.publisher.<name>: the number of the last call that was carried out   2 jumpstarter.parked   3… lists
-- ARGV 1 number of this call   2 seconds for which it is remembered   3 how many are parked, then (due, member) of each
--      then for each list: how many messages, and these
--
-- Answers 1, also to a call that was carried out before; or an error and nothing was done: WRONGTYPE <place of the key>.
-- A lost connection may deliver a call late, after its repetition and after calls that followed it: hence a number that grows.

if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return 1 end

local parked = tonumber(ARGV[3])
for n = parked > 0 and 2 or 3, #KEYS do
    local kind = redis.call('TYPE', KEYS[n]).ok
    if kind ~= 'none' and kind ~= (n == 2 and 'zset' or 'list') then return redis.error_reply('WRONGTYPE ' .. n) end
end

local function push(command, key, first, last)
    -- unpack overflows Lua's stack near 8,000.
    for at = first, last, 2000 do redis.call(command, key, unpack(ARGV, at, math.min(at + 1999, last))) end
end

redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
push('ZADD', KEYS[2], 4, 3 + 2 * parked)
local at = 4 + 2 * parked
for n = 3, #KEYS do
    local last = at + tonumber(ARGV[at])
    push('LPUSH', KEYS[n], at + 1, last)
    at = last + 1
end
return 1
