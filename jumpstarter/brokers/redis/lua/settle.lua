-- Settle a batch of claims: for each one that still holds count its part, publish, store results and ack, requeue, park or quarantine it,
-- all or nothing.
--
-- KEYS 1 unacked   2 unacked_index   3 jumpstarter.claims.<incarnation>   4 jumpstarter.calls.<incarnation>   5 jumpstarter.parked
--      6 jumpstarter.quarantine   7 jumpstarter.quarantine.order   8 jumpstarter.leases   9 jumpstarter.holds.<incarnation>
-- ARGV 1 name of this call   2 '1' when it is sent for the second time   3 the broker's database   4 incarnation
--      5 number of settlements   6… their tags, then for each of them:
--      'J' and a part (database, then six values, see count_part), 'C' and a join to close (database, join), both if any,
--      action and what it needs (A ack · D done already, nothing is claimed · R return · Q requeue, raw · P park, due, unique ·
--      X quarantine, record),
--      number of messages, (list, '', raw | '', due, parked member) …, number of documents, (database, key, body, ttl, mark) …
-- (Keys of lists, joins and documents are in ARGV: there are too many to name them twice. Clusters are out of scope.)
--
-- Answers {one letter per settlement, {error …}, {body …} for each C}: 1 done, 0 the claim was lost and nothing was done, E an error and
-- nothing was done, C nothing but the part was counted, it completed its join; or the join that was to be closed has been closed, and
-- nothing was done (then there are no bodies).

local unacked, index, claims, calls, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local home, count, FIRST = ARGV[3], tonumber(ARGV[5]), 5

-- What was said the first time. Only what was done is taken from it: the rest changed nothing and is tried again.
local before
if ARGV[2] == '1' then
    local name, letters = string.match(redis.call('HGET', calls, 'settle') or '', '^(%S+) (%S+)$')
    if name == ARGV[1] then before = letters end
end

-- The fence: each claim has a tag of its own, and Kombu keeps hash and index in step.
local holds = {}
for first = 1, count, 2000 do
    for n, score in ipairs(redis.call('ZMSCORE', index, unpack(ARGV, FIRST + first, FIRST + math.min(first + 1999, count)))) do
        holds[first + n - 1] = score
    end
end

-- Results may be in another database of this server. The client's own one is as it was when the script ends.
local selected = home
local function go(database)
    if database == selected then return nil end
    -- A user who may go but not come back stays: his rights may name single databases.
    for _, target in ipairs({home, database}) do
        local reply = redis.pcall('SELECT', target)
        if failed(reply) then return 'SELECT ' .. database .. ' ' .. reply.err end
    end
    selected = database
end

-- Follow-up messages are at ARGV[first], three places each. Those that were sent are taken back when something after them fails: each of
-- them is still the newest of its list.
local function unsend(first, sent)
    go(home)
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
    if messages > 0 then go(home) end
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

local function store_all(first, last)
    for place = first, last, 5 do
        local fault = go(ARGV[place])
        if fault then return fault end
        fault = store(ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[place + 4])
        if fault then return ARGV[place + 1] .. ' ' .. fault end
    end
end

local back = {}
local function move(tag, action, first, second)
    go(home)
    local reply, target
    if action == 'X' then
        target = KEYS[6]
        reply = rest(target, KEYS[7], first)
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

-- All that a settlement asks for but its joins and the end of its claim; answers what went wrong.
local function carry_out(tag, action, words, messages_at, messages, documents_at, last)
    local fault = send(messages_at, messages)
    if fault then return fault end
    fault = store_all(documents_at, last)
    if not fault and action ~= 'A' and action ~= 'D' then fault = move(tag, action, ARGV[words], ARGV[words + 1]) end
    if fault then unsend(messages_at, messages) end
    return fault
end

-- In another database, and with errors as values: what is wrong with one join must not end the whole batch.
local function in_join(place, work, argument)
    local fault = go(ARGV[place])
    if fault then return fault end
    local fine, first, second = pcall(work, argument)
    if fine then return nil, first, second end
    return ARGV[place + 1] .. ' ' .. (type(first) == 'table' and first.err or tostring(first))
end

-- Count the part, do the rest and close the join, each if there is one; answers what went wrong, or bodies if nothing was done.
local function carry_out_join(part, closes, ...)
    local fault, bodies, uncount, may_close
    if part then
        fault, bodies, uncount = in_join(part, count_part, part + 1)
        if fault or bodies then return fault, bodies end
    end
    if closes then
        fault, may_close = in_join(closes, is_open, ARGV[closes + 1])
        if not fault and not may_close then bodies = {} end
    end
    if not (fault or bodies) then fault = carry_out(...) end
    if not (fault or bodies) and closes then fault = in_join(closes, close_join, ARGV[closes + 1]) end
    if (fault or bodies) and uncount then in_join(part, uncount) end
    return fault, bodies
end

local WORDS = {A = 0, D = 0, R = 0, Q = 1, P = 2, X = 1}
local letters, errors, completed, settled, returning, seen = {}, {}, {}, {}, {}, {}
local is_told = false
local at = FIRST + 1 + count
for n = 1, count do
    local tag, part, closes = ARGV[FIRST + n], nil, nil
    if ARGV[at] == 'J' then
        part = at + 1
        at = at + 8
    end
    if ARGV[at] == 'C' then
        closes = at + 1
        at = at + 3
    end
    local action, words = ARGV[at], at + 1
    local messages_at = words + WORDS[action]
    local messages = tonumber(ARGV[messages_at])
    local documents_at = messages_at + 1 + 3 * messages
    at = documents_at + 1 + 5 * tonumber(ARGV[documents_at])
    local letter = before and string.sub(before, n, n)
    if letter ~= '1' then
        letter = '0'
        if action == 'D' or (holds[n] and not seen[tag]) then
            seen[tag] = true
            local fault, bodies
            if part or closes then
                fault, bodies = carry_out_join(part, closes, tag, action, words, messages_at + 1, messages, documents_at + 1, at - 1)
            else
                fault = carry_out(tag, action, words, messages_at + 1, messages, documents_at + 1, at - 1)
            end
            letter = fault and 'E' or bodies and 'C' or '1'
            if fault then errors[#errors + 1] = fault end
            if bodies then completed[#completed + 1] = bodies end
        end
        if letter == '1' and back[tag] then
            returning[#returning + 1] = tag
        elseif letter == '1' and action ~= 'D' then
            settled[#settled + 1] = tag
        end
    end
    is_told = is_told or letter == '1'
    letters[n] = letter
end
go(home)
-- The first that was claimed is pushed last, so that it is the next to be served.
for _, tag in ipairs(newest_first(returning)) do
    redis.call('RPUSH', back[tag][1], back[tag][2])
    settled[#settled + 1] = tag
end
in_chunks('HDEL', unacked, settled)
in_chunks('ZREM', index, settled)
in_chunks('HDEL', claims, settled)
end_holds(KEYS[8], calls, KEYS[9], ARGV[4], settled)

local told = table.concat(letters)
if is_told then redis.call('HSET', calls, 'settle', ARGV[1] .. ' ' .. told) end
return {told, {unpack(errors, 1, math.min(#errors, 10))}, unpack(completed)}
