-- Give an unacked message of a worker that is not ours back to its queues, if it is still as old as it was when it was looked at.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.quarantine   4 jumpstarter.quarantine.order
-- ARGV 1 tag   2 visibility timeout in seconds   3 record for the quarantine, or ''   4… list, raw …
--
-- Answers 1 when it was restored, 0 when somebody else has dealt with it.

local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or tonumber(score) > server_time() - tonumber(ARGV[2]) then return 0 end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    redis.call('ZREM', KEYS[2], ARGV[1])
    return 0
end
if ARGV[3] ~= '' then
    local reply = rest(KEYS[3], KEYS[4], ARGV[3])
    if failed(reply) then return reply end
end
for n = 4, #ARGV, 2 do redis.call('RPUSH', ARGV[n], ARGV[n + 1]) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
