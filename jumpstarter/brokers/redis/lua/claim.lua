-- Take messages for an incarnation: pop, record as unacked, record the lease, all or nothing.
--
-- KEYS 1 jumpstarter.parked   2 jumpstarter.epoch   3 jumpstarter.leases   4 jumpstarter.claims.<incarnation>
--      5 jumpstarter.calls.<incarnation>   6 unacked   7 unacked_index
--      8 jumpstarter.notices   9… the lists of the queues, queue by queue, each queue's priorities in order; then the wait lists
-- ARGV 1 incarnation   2 limit   3 lease in seconds   4 number of this call   5 newest epoch that the caller knows, if it doubts
--      6 number of queues   7 lists per queue   8… for each list the end of its entries; then for each wait list the number of its list
--
-- Answers {epoch, {lists that cannot be popped}, id of the newest notice, list, {raw …}, list, {raw …} …}; message n of all has the tag <incarnation>.<epoch>.<n>.

local parked, epochs, leases, claims, calls, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local incarnation, limit, number = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local queues, per_queue = tonumber(ARGV[6]), tonumber(ARGV[7])
local lists = queues * per_queue
local now = server_time()

-- A call that was overtaken by a later one has nobody who reads its answer: whatever it took would be renewed for ever.
local last, shortest = unpack(redis.call('HMGET', calls, 'claim', 'shortest'))
if last and tonumber(last) >= number then return {0, {}, ''} end
-- The first write: out of memory, read-only and lost disks are told here, before anything was popped.
redis.call('HSET', calls, 'claim', ARGV[4])

-- The answer to an earlier call may have been lost: what is newer than all that the caller has seen goes back.
if ARGV[5] ~= '' then
    local known, unknown = tonumber(ARGV[5]), {}
    for _, tag in ipairs(redis.call('HKEYS', claims)) do
        local _, epoch = parts_of(tag)
        if epoch and epoch > known then unknown[#unknown + 1] = tag end
    end
    for _, tag in ipairs(newest_first(unknown)) do give_back(unacked, index, claims, tag) end
end

renew_lease(leases, calls, incarnation, now, tonumber(ARGV[3]), shortest)
promote(parked, now, 100)

local taken, count, bytes, bad = {}, 0, 0, {}
local MOST = 8388608 -- one answer: eight MiB and what the last pop brought

local function keep(list, raws)
    for n = 1, #raws do bytes = bytes + #raws[n] end
    count = count + #raws
    taken[#taken + 1] = {list, raws}
end

for at = 1, #KEYS - 8 - lists do
    local waiting = KEYS[8 + lists + at]
    local list = tonumber(ARGV[7 + lists + at])
    while count < limit do
        local raw = redis.call('RPOP', waiting)
        if not raw then break end
        keep(list, {raw})
    end
    if count >= limit then sweep(waiting, KEYS[8 + list]) end
end

local function pop(list, most)
    -- By sixteen, so that a batch of large messages can be ended early.
    while most > 0 and bytes < MOST and not bad[list] do
        local wanted = math.min(most, 16)
        local raws = redis.pcall('RPOP', KEYS[8 + list], wanted)
        if not raws then return end
        if raws.err then
            bad[list] = true
            return
        end
        keep(list, raws)
        most = most - #raws
        if #raws < wanted then return end
    end
end

local function serve(queue, most)
    local before = count
    for step = 1, per_queue do
        pop((queue - 1) * per_queue + step, math.min(limit - count, most - (count - before)))
    end
end

-- First everyone's share, then who has more.
if queues > 1 then
    local share = math.ceil(limit / queues)
    for queue = 1, queues do serve(queue, share) end
end
for queue = 1, queues do serve(queue, limit) end

local refused = {}
for list in pairs(bad) do refused[#refused + 1] = list end
if count == 0 then return {0, refused, ''} end

local epoch = redis.call('INCR', epochs)
local head, score, n = incarnation .. '.' .. string.format('%d', epoch) .. '.', as_score(now), 0
local entries, scores, notes, tags = {}, {}, {}, {}
for _, batch in ipairs(taken) do
    local raws, key, ending = batch[2], ':' .. KEYS[8 + batch[1]], ARGV[7 + batch[1]]
    for i = 1, #raws do
        local raw, tag = raws[i], head .. (n + 1)
        local at = 2 * n + 1
        n = n + 1
        tags[n] = tag
        entries[at], entries[at + 1] = tag, '[' .. raw .. ending
        notes[at], notes[at + 1] = tag, #raw .. key
    end
end
-- The last one first: a small sorted set is kept as a list, and is searched from its low end.
for i = n, 1, -1 do
    scores[#scores + 1] = score
    scores[#scores + 1] = tags[i]
end

local function record()
    for _, write in ipairs({{'HSET', claims, notes}, {'HSET', unacked, entries}, {'ZADD', index, scores}}) do
        local reply = in_chunks(write[1], write[2], write[3])
        if failed(reply) then return reply end
    end
end

local fault = record()
if fault then
    -- Missing rights, or a key of another type: put all of it back where it was.
    in_chunks('HDEL', claims, tags)
    in_chunks('HDEL', unacked, tags)
    in_chunks('ZREM', index, tags)
    for at = #taken, 1, -1 do
        local raws = taken[at][2]
        for from = #raws, 1, -1 do redis.call('RPUSH', KEYS[8 + taken[at][1]], raws[from]) end
    end
    return fault
end

-- What was said before any of these messages was published is known by now.
local notice = redis.call('XREVRANGE', KEYS[8], '+', '-', 'COUNT', 1)[1]

local answer = {epoch, refused, notice and notice[1] or ''}
for _, batch in ipairs(taken) do
    answer[#answer + 1] = batch[1]
    answer[#answer + 1] = batch[2]
end
return answer
