-- Return claims of an incarnation with the messages rewritten (their delivery counts grow), each only if it is still claimed.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.claims.<incarnation>   4 jumpstarter.leases   5 jumpstarter.calls.<incarnation>
-- ARGV 1 key prefix   2 incarnation   3 '1': only if its lease ran out   4 '1': end the incarnation when nothing is left
--      5… tag, new raw …  (the newest claim first)
--
-- Answers how many messages went back, or -1 when the lease is alive again.

local lease = redis.call('ZSCORE', KEYS[4], ARGV[2])
if ARGV[3] == '1' and lease and tonumber(lease) > server_time() then return -1 end
local returned = 0
if ARGV[4] == '1' then returned = sweep_all(ARGV[1], ARGV[2]) end
for n = 5, #ARGV, 2 do
    local tag = ARGV[n]
    local claim = redis.call('HGET', KEYS[3], tag)
    if claim and redis.call('HEXISTS', KEYS[1], tag) == 1 then
        redis.call('RPUSH', origin_of(claim), ARGV[n + 1])
        returned = returned + 1
    end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[3], tag)
end
if ARGV[4] == '1' and redis.call('HLEN', KEYS[3]) == 0 then
    redis.call('ZREM', KEYS[4], ARGV[2])
    redis.call('DEL', KEYS[5])
end
return returned
