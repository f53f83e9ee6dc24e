-- Say that an incarnation may have messages put aside in wait lists, before it blocks.
--
-- KEYS 1 jumpstarter.waits   2 jumpstarter.waits.<incarnation>
-- ARGV 1 incarnation   2 seconds for which that may go on   3… the lists it waits for

redis.call('ZADD', KEYS[1], 'GT', as_score(server_time() + tonumber(ARGV[2])), ARGV[1])
redis.call('SADD', KEYS[2], unpack(ARGV, 3))
