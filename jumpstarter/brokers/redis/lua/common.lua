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
