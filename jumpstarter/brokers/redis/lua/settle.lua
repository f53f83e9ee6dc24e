-- Settle a batch of claims: for each one that still holds publish, store results and ack, requeue, park or quarantine it, all or nothing.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.claims.<incarnation>   4 jumpstarter.calls.<incarnation>   5 jumpstarter.parked
--      6 jumpstarter.quarantine
-- ARGV 1 name of this call   2 '1' when it is sent for the second time   3 number of settlements   4… their tags, then for each of them:
--      action and what it needs (A ack · R return · Q requeue, raw · P park, due, unique · X quarantine, record),
--      number of messages, (list, '', raw | '', due, parked member) …, number of documents, (key, body, ttl, mark) …
-- (Keys of lists and documents are in ARGV: there are too many to name them twice. Clusters are out of scope.)
--
-- Answers {one letter per settlement, error …}: 1 done, 0 the claim was lost and nothing was done, E an error and nothing was done.

local unacked, index, claims, calls, parked, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

if ARGV[2] == '1' then
    local name, letters = string.match(redis.call('HGET', calls, 'settle') or '', '^(%S+) (%S+)$')
    if name == ARGV[1] then return {letters} end
end

-- The fence: each claim has a tag of its own, and Kombu keeps hash and index in step.
local count = tonumber(ARGV[3])
local holds = {}
for first = 1, count, 2000 do
    for n, score in ipairs(redis.call('ZMSCORE', index, unpack(ARGV, 3 + first, 3 + math.min(first + 1999, count)))) do
        holds[first + n - 1] = score
    end
end

-- Follow-up messages are at ARGV[first], three places each. Those that were sent are taken back when something after them fails: each of
-- them is still the newest of its list.
local function unsend(first, sent)
    for n = sent - 1, 0, -1 do
        local place = first + 3 * n
        if ARGV[place + 1] == '' then
            redis.call('LPOP', ARGV[place])
        else
            redis.call('ZREM', parked, ARGV[place + 2])
        end
    end
end

local function send(first, messages)
    for n = 0, messages - 1 do
        local place, reply = first + 3 * n, nil
        if ARGV[place + 1] == '' then
            reply = redis.pcall('LPUSH', ARGV[place], ARGV[place + 2])
        else
            reply = redis.pcall('ZADD', parked, ARGV[place + 1], ARGV[place + 2])
        end
        if failed(reply) then
            unsend(first, n)
            return (ARGV[place] == '' and parked or ARGV[place]) .. ' ' .. reply.err
        end
    end
end

local back = {}
local function move(tag, action, first, second)
    local reply, target
    if action == 'X' then
        target = quarantine
        reply = redis.pcall('LPUSH', target, first)
    else
        local claim = redis.call('HGET', claims, tag)
        if not claim then return claims .. ' ERR the claim ' .. tag .. ' was not recorded' end
        local list, length = origin_of(claim)
        if action == 'Q' then
            back[tag] = {list, first}
            return
        end
        local raw = string.sub(redis.call('HGET', unacked, tag), 2, 1 + length)
        if action == 'R' then
            back[tag] = {list, raw}
            return
        end
        target = parked
        reply = redis.pcall('ZADD', target, first, second .. '|' .. #list .. '|' .. list .. raw)
    end
    if failed(reply) then return target .. ' ' .. reply.err end
end

local WORDS = {A = 0, R = 0, Q = 1, P = 2, X = 1}
local letters, errors, settled, returning, seen = {}, {}, {}, {}, {}
local at = 4 + count
for n = 1, count do
    local tag, action = ARGV[3 + n], ARGV[at]
    local words = at + 1
    local messages_at = words + WORDS[action]
    local messages = tonumber(ARGV[messages_at])
    local documents_at = messages_at + 1 + 3 * messages
    local documents = tonumber(ARGV[documents_at])
    at = documents_at + 1 + 4 * documents
    if not holds[n] or seen[tag] then
        letters[n] = '0'
    else
        seen[tag] = true
        local fault = messages > 0 and send(messages_at + 1, messages) or nil
        for place = documents_at + 1, at - 1, 4 do
            if fault then break end
            fault = store(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])
            if fault then
                fault = ARGV[place] .. ' ' .. fault
                unsend(messages_at + 1, messages)
            end
        end
        if not fault and action ~= 'A' then
            fault = move(tag, action, ARGV[words], ARGV[words + 1])
            if fault then unsend(messages_at + 1, messages) end
        end
        letters[n] = fault and 'E' or '1'
        if fault then
            errors[#errors + 1] = fault
        elseif back[tag] then
            returning[#returning + 1] = tag
        else
            settled[#settled + 1] = tag
        end
    end
end
-- The first that was claimed is pushed last, so that it is the next to be served.
for _, tag in ipairs(newest_first(returning)) do
    redis.call('RPUSH', back[tag][1], back[tag][2])
    settled[#settled + 1] = tag
end
in_chunks('HDEL', unacked, settled)
in_chunks('ZREM', index, settled)
in_chunks('HDEL', claims, settled)

local told = table.concat(letters)
if #settled > 0 then redis.call('HSET', calls, 'settle', ARGV[1] .. ' ' .. told) end
return {told, unpack(errors, 1, math.min(#errors, 10))}
