-- Return claims of an incarnation with the messages rewritten (their delivery counts grow), each only if it is still claimed.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.claims.<incarnation>   4 jumpstarter.leases   5 jumpstarter.calls.<incarnation>
--      6 jumpstarter.holds.<incarnation>
-- ARGV 1 key prefix   2 incarnation   3 '1': only what its lease ran out for   4 '1': the last call of a round: end the incarnation when
--      nothing is left, else have it looked at again when the next lease of its claims runs out
--      5… tag, new raw …  (the newest claim first)
--
-- Answers how many messages went back, or -1 when the lease is alive again.

local claims, leases, calls, holds = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local incarnation, only_expired, is_last = ARGV[2], ARGV[3] == '1', ARGV[4] == '1'
local now = server_time()
local score = redis.call('ZSCORE', leases, incarnation)
if only_expired and score and tonumber(score) > now then return -1 end
local renewed, lease = last_renewal(leases, calls, incarnation)

-- A claim may have got a lease of its own since the caller looked.
local function is_over(tag)
    return not (only_expired and renewed) or renewed + tonumber(redis.call('HGET', holds, tag) or lease) <= now
end

local returned, ended = 0, {}
if is_last then returned = sweep_all(ARGV[1], incarnation) end
for n = 5, #ARGV, 2 do
    local tag = ARGV[n]
    local claim = redis.call('HGET', claims, tag)
    if is_over(tag) then
        if claim and redis.call('HEXISTS', KEYS[1], tag) == 1 then
            redis.call('RPUSH', origin_of(claim), ARGV[n + 1])
            returned = returned + 1
        end
        redis.call('HDEL', KEYS[1], tag)
        redis.call('ZREM', KEYS[2], tag)
        redis.call('HDEL', claims, tag)
        ended[#ended + 1] = tag
    end
end
end_holds(leases, calls, holds, incarnation, ended)
if not is_last then return returned end

if redis.call('HLEN', claims) == 0 then
    redis.call('ZREM', leases, incarnation)
    redis.call('DEL', calls, holds)
elseif redis.call('EXISTS', holds) == 1 and renewed then
    local notes, shortest = pairs_of(redis.call('HGETALL', holds)), math.huge
    for _, tag in ipairs(redis.call('HKEYS', claims)) do shortest = math.min(shortest, tonumber(notes[tag] or lease)) end
    note_lease(leases, calls, incarnation, renewed, math.max(lease, shortest), shortest)
end
return returned
