-- Look for what nobody looks after: parked messages that are due, leases that ran out, forgotten wait lists, unacked messages of
-- workers that are not ours.
--
-- KEYS 1 jumpstarter.parked   2 jumpstarter.leases   3 jumpstarter.waits   4 unacked_index
-- ARGV 1 key prefix   2 visibility timeout in seconds
--
-- Answers {promoted, swept, seconds until the next parked message or '', {expired incarnations}, {tags beyond the visibility timeout}}.

local prefix = ARGV[1]
local now = server_time()

local function alive(incarnation)
    local lease = redis.call('ZSCORE', KEYS[2], incarnation)
    return lease and tonumber(lease) > now
end

local promoted = promote(KEYS[1], now, 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', as_score(now), 'LIMIT', 0, 50)

-- The score of a member says until when a blocked BLMOVE of that incarnation may still put a message into a wait list of its own.
local swept = 0
local waits = redis.call('ZRANGE', KEYS[3], 0, 4999, 'WITHSCORES')
for n = 1, #waits, 2 do
    local incarnation = waits[n]
    if not alive(incarnation) then
        swept = swept + sweep_all(prefix, incarnation)
        if tonumber(waits[n + 1]) < now then
            redis.call('ZREM', KEYS[3], incarnation)
            redis.call('DEL', prefix .. 'jumpstarter.waits.' .. incarnation)
        end
    end
end

local stale = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', as_score(now - tonumber(ARGV[2])), 'LIMIT', 0, 200)) do
    local incarnation = parts_of(tag)
    -- Ours are returned when their lease runs out, with their count; what has neither lease nor reaper is an orphan.
    if not (incarnation and redis.call('ZSCORE', KEYS[2], incarnation)) then stale[#stale + 1] = tag end
end

local next_due = ''
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then next_due = as_score(math.max(0, tonumber(first[2]) - now)) end
return {promoted, swept, next_due, expired, stale}
