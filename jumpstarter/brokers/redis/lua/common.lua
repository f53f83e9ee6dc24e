-- Pieces that the scripts share; put in front of each of them. Redis 6.2 or later.
-- Times come from the server alone: clocks of workers are never compared.

local function server_time()
    local now = redis.call('TIME')
    return tonumber(now[1]) + tonumber(now[2]) / 1000000
end

-- Lua writes numbers with 14 digits, which leaves a tenth of a millisecond of a date.
local function as_score(time)
    return string.format('%.6f', time)
end

local function failed(reply)
    return type(reply) == 'table' and reply.err
end

-- One command with any number of arguments: unpack overflows Lua's stack near 8,000.
local function in_chunks(command, key, arguments, ...)
    local options = {...}
    if #options == 0 and #arguments <= 2000 then
        if #arguments == 0 then return true end
        return redis.pcall(command, key, unpack(arguments))
    end
    for first = 1, #arguments, 2000 do
        local chunk = {}
        for _, option in ipairs(options) do chunk[#chunk + 1] = option end
        for at = first, math.min(first + 1999, #arguments) do chunk[#chunk + 1] = arguments[at] end
        local reply = redis.pcall(command, key, unpack(chunk))
        if failed(reply) then return reply end
    end
    return true
end

-- What HGETALL answers, as a table.
local function pairs_of(flat)
    local table = {}
    for n = 1, #flat, 2 do table[flat[n]] = flat[n + 1] end
    return table
end

-- A tag is "<incarnation>.<epoch>.<number>".
local function parts_of(tag)
    local incarnation, epoch, number = string.match(tag, '^(.*)%.(%d+)%.(%d+)$')
    return incarnation, tonumber(epoch), tonumber(number)
end

local function newest_first(tags)
    local order = {}
    for _, tag in ipairs(tags) do
        local _, epoch, number = parts_of(tag)
        order[tag] = {epoch or 0, number or 0}
    end
    table.sort(tags, function(a, b)
        local x, y = order[a], order[b]
        if x[1] ~= y[1] then return x[1] > y[1] end
        return x[2] > y[2]
    end)
    return tags
end

-- A claim is noted as "<bytes of raw>:<list>" under its tag, and its entry in Kombu's hash is '[' .. raw .. ', "", "queue"]'.
local function origin_of(claim)
    local length, list = string.match(claim, '^(%d+):(.*)$')
    return list, tonumber(length)
end

-- Give a claim back to the consuming end of its list, byte for byte. Nothing is lost if the push fails: it comes first.
local function give_back(unacked, index, claims, tag)
    local claim = redis.call('HGET', claims, tag)
    local entry = redis.call('HGET', unacked, tag)
    local returned = 0
    if claim and entry then
        local list, length = origin_of(claim)
        redis.call('RPUSH', list, string.sub(entry, 2, 1 + length))
        returned = 1
    end
    redis.call('HDEL', unacked, tag)
    redis.call('ZREM', index, tag)
    redis.call('HDEL', claims, tag)
    return returned
end

-- Move everything in a wait list back to the consuming end of its source: newest first, so that the oldest is served first.
local function sweep(waiting, list)
    local moved = 0
    while true do
        local reply = redis.pcall('LMOVE', waiting, list, 'LEFT', 'RIGHT')
        if not reply or failed(reply) then return moved end
        moved = moved + 1
    end
end

-- Sweep all wait lists of an incarnation: their sources are the members of one set.
local function sweep_all(prefix, incarnation)
    local moved = 0
    for _, list in ipairs(redis.call('SMEMBERS', prefix .. 'jumpstarter.waits.' .. incarnation)) do
        moved = moved + sweep(prefix .. 'jumpstarter.wait.' .. incarnation .. ':' .. list, list)
    end
    return moved
end

-- Parked messages that are due go to the producing end of their lists. A member is "<unique>|<length of list>|<list><raw>".
local function promote(parked, now, limit)
    local moved = 0
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', parked, '-inf', as_score(now), 'LIMIT', 0, limit)) do
        local _, head, length = string.find(member, '^[^|]*|(%d+)|')
        local pushed = {err = 'not ours'}
        if head then
            local list = string.sub(member, head + 1, head + length)
            pushed = redis.pcall('LPUSH', list, string.sub(member, head + length + 1))
        end
        if failed(pushed) then
            -- Its queue's key holds something else: look again in a minute and let the others pass.
            redis.call('ZADD', parked, as_score(now + 60), member)
        else
            redis.call('ZREM', parked, member)
            moved = moved + 1
        end
    end
    return moved
end

-- Leases. The score of an incarnation in jumpstarter.leases is the first moment at which something of it may be returned. For most that
-- is the end of one lease. Where claims have leases of their own, jumpstarter.holds.<incarnation> keeps them {tag: seconds}, and
-- jumpstarter.calls.<incarnation> keeps, in seconds from the last renewal: 'lease' of the other claims, 'shortest' of the holds, and
-- 'scored', what the score adds to the last renewal. Seconds only, so there is one date: the score.

local function seconds(number)
    return string.format('%.6f', number)
end

-- When the incarnation was renewed last, and the lease of its claims that have none of their own; nil where no claim has.
local function last_renewal(leases, calls, incarnation)
    local score, lease = redis.call('ZSCORE', leases, incarnation), redis.call('HMGET', calls, 'scored', 'lease')
    if not (score and lease[1]) then return nil end
    return tonumber(score) - tonumber(lease[1]), tonumber(lease[2])
end

local function note_lease(leases, calls, incarnation, renewed, lease, shortest)
    local scored = math.min(lease, shortest)
    redis.call('HSET', calls, 'lease', seconds(lease), 'shortest', seconds(shortest), 'scored', seconds(scored))
    redis.call('ZADD', leases, as_score(renewed + scored), incarnation)
end

-- The incarnation lives. `shortest` of its holds, or nil where there are none.
local function renew_lease(leases, calls, incarnation, now, lease, shortest)
    if shortest then
        note_lease(leases, calls, incarnation, now, lease, tonumber(shortest))
    else
        redis.call('ZADD', leases, as_score(now + lease), incarnation)
    end
end

-- Claims are over. With the last hold the notes go, and the lease of the other claims counts again.
local function end_holds(leases, calls, holds, incarnation, tags)
    if redis.call('EXISTS', holds) == 0 then return end
    in_chunks('HDEL', holds, tags)
    if redis.call('EXISTS', holds) == 1 then return end
    local renewed, lease = last_renewal(leases, calls, incarnation)
    if renewed then redis.call('ZADD', leases, as_score(renewed + lease), incarnation) end
    redis.call('HDEL', calls, 'lease', 'shortest', 'scored')
end

-- Quarantine: a hash {id: record} and a sorted set of the ids by age. An id is the server's time in microseconds, or the next free number
-- after it, so that whoever turns pages goes on behind an id that is not there any more.

local last_resting = 0
local function rest(quarantine, order, record)
    local now = redis.call('TIME')
    last_resting = math.max(tonumber(now[1]) * 1000000 + tonumber(now[2]), last_resting + 1)
    while true do
        local is_new = redis.pcall('HSETNX', quarantine, string.format('%.0f', last_resting), record)
        if failed(is_new) then return is_new end
        if is_new == 1 then break end
        last_resting = last_resting + 1
    end
    local id = string.format('%.0f', last_resting)
    local reply = redis.pcall('ZADD', order, id, id)
    if failed(reply) then redis.call('HDEL', quarantine, id) end
    return reply
end
