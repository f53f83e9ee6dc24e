-- Send messages from the quarantine back to their queues, each only if it still rests.
--
-- KEYS 1 jumpstarter.quarantine   2 jumpstarter.quarantine.order
-- ARGV id, list, raw …
--
-- Answers {how many were found}, or {how many, list, error} where one could not be pushed; it and what comes after it stay.

local found = 0
for n = 1, #ARGV, 3 do
    local id, list = ARGV[n], ARGV[n + 1]
    if redis.call('HEXISTS', KEYS[1], id) == 1 then
        local reply = redis.pcall('LPUSH', list, ARGV[n + 2])
        if failed(reply) then return {found, list, reply.err} end
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
        found = found + 1
    end
end
return {found}
