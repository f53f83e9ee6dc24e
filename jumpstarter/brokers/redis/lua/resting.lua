-- A page of the quarantine.
--
-- KEYS 1 jumpstarter.quarantine   2 jumpstarter.quarantine.order
-- ARGV 1 the id behind which it begins, '' for the oldest   2 how many, at most 1,000
--
-- Answers {id, record …}.

local ids = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1] == '' and '-inf' or '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
local answer = {}
for n, record in ipairs(#ids > 0 and redis.call('HMGET', KEYS[1], unpack(ids)) or {}) do
    answer[#answer + 1] = ids[n]
    answer[#answer + 1] = record
end
return answer
