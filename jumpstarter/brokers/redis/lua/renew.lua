-- Extend leases, and refresh Kombu's index so that genuine workers do not restore what runs long here.
--
-- KEYS 1 jumpstarter.leases   2 unacked_index   3… for each incarnation jumpstarter.claims.<…>, jumpstarter.calls.<…>, jumpstarter.holds.<…>
-- ARGV 1 lease in seconds   2… the incarnations

local now = server_time()
for n = 2, #ARGV do
    local claims, calls, holds = KEYS[3 * n - 3], KEYS[3 * n - 2], KEYS[3 * n - 1]
    local shortest
    for _, lease in ipairs(redis.call('HVALS', holds)) do shortest = math.min(shortest or math.huge, tonumber(lease)) end
    renew_lease(KEYS[1], calls, ARGV[n], now, tonumber(ARGV[1]), shortest)
    local fresh = {}
    for _, tag in ipairs(redis.call('HKEYS', claims)) do
        fresh[#fresh + 1] = as_score(now)
        fresh[#fresh + 1] = tag
    end
    in_chunks('ZADD', KEYS[2], fresh, 'XX')
end
