-- Give claims a lease of their own. Says that the incarnation lives, but renews only the holds.
--
-- KEYS 1 jumpstarter.leases   2 jumpstarter.claims.<incarnation>   3 jumpstarter.calls.<incarnation>   4 jumpstarter.holds.<incarnation>
-- ARGV 1 incarnation   2 lease in seconds   3… the tags

local leases, claims, calls, holds = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local incarnation, lease = ARGV[1], tonumber(ARGV[2])
local notes = {}
for n = 3, #ARGV do
    if redis.call('HEXISTS', claims, ARGV[n]) == 1 then
        notes[#notes + 1] = ARGV[n]
        notes[#notes + 1] = seconds(lease)
    end
end
if #notes == 0 then return end

local now = server_time()
local renewed, others = last_renewal(leases, calls, incarnation)
if renewed then
    others = renewed + others - now
else
    -- The first hold. Nobody wrote down how long the lease is, but when it ends.
    others = tonumber(redis.call('ZSCORE', leases, incarnation) or now) - now
end
local reply = in_chunks('HSET', holds, notes)
if failed(reply) then return reply end
local shortest = redis.call('HGET', calls, 'shortest')
note_lease(leases, calls, incarnation, now, others, math.min(lease, tonumber(shortest or lease)))
