-- Extend leases, and refresh Kombu's index so that genuine workers do not restore what runs long here.
--
-- KEYS 1 jumpstarter.leases   2 unacked_index   3… jumpstarter.claims.<incarnation>
-- ARGV 1 lease in seconds   2… the incarnations

local now = server_time()
for n = 2, #ARGV do
    redis.call('ZADD', KEYS[1], as_score(now + tonumber(ARGV[1])), ARGV[n])
    local fresh = {}
    for _, tag in ipairs(redis.call('HKEYS', KEYS[n + 1])) do
        fresh[#fresh + 1] = as_score(now)
        fresh[#fresh + 1] = tag
    end
    in_chunks('ZADD', KEYS[2], fresh, 'XX')
end
