-- Return an incarnation's claims as they are to the consuming ends of their lists.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.claims.<incarnation>   4 jumpstarter.leases   5 jumpstarter.calls.<incarnation>
--      6 jumpstarter.holds.<incarnation>
-- ARGV 1 key prefix   2 incarnation   3… tags to keep
--
-- Answers how many messages went back.

local kept = {}
for n = 3, #ARGV do kept[ARGV[n]] = true end
-- What lies in the wait lists was popped after the claims were: it is pushed first, so it is served after them.
local returned = sweep_all(ARGV[1], ARGV[2])
local tags = {}
for _, tag in ipairs(redis.call('HKEYS', KEYS[3])) do
    if not kept[tag] then tags[#tags + 1] = tag end
end
for _, tag in ipairs(newest_first(tags)) do
    returned = returned + give_back(KEYS[1], KEYS[2], KEYS[3], tag)
end
if #ARGV == 2 then
    redis.call('ZREM', KEYS[4], ARGV[2])
    redis.call('DEL', KEYS[5], KEYS[6])
else
    end_holds(KEYS[4], KEYS[5], KEYS[6], ARGV[2], tags)
end
return returned
