-- Publish a message, once however often it is sent. As publish.lua, which says why; alone it costs the server half as much.
--
-- KEYS 1 jumpstarter.publisher.<name>   2 list
-- ARGV 1 number of this call   2 seconds for which it is remembered   3 message

local before = redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2], 'GET')
if before and tonumber(before) >= tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], before, 'EX', ARGV[2])
    return 1
end
local reply = redis.pcall('LPUSH', KEYS[2], ARGV[3])
if type(reply) == 'number' then return 1 end
redis.call('SET', KEYS[1], before or 0, 'EX', ARGV[2])
if string.find(reply.err, 'WRONGTYPE') then return redis.error_reply('WRONGTYPE 2') end
return reply
