-- Which claims of an incarnation have to be returned now: all of them when its lease ran out, but for those with a longer one of their own.
--
-- KEYS 1 jumpstarter.leases   2 jumpstarter.claims.<incarnation>   3 jumpstarter.calls.<incarnation>   4 jumpstarter.holds.<incarnation>
-- ARGV 1 incarnation
--
-- Answers the tags.

local renewed, lease = last_renewal(KEYS[1], KEYS[3], ARGV[1])
local tags = redis.call('HKEYS', KEYS[2])
if not renewed then return tags end
local silence = server_time() - renewed
local holds = pairs_of(redis.call('HGETALL', KEYS[4]))
local overdue = {}
for _, tag in ipairs(tags) do
    if tonumber(holds[tag] or lease) <= silence then overdue[#overdue + 1] = tag end
end
return overdue
