-- Give back what was put aside and is not wanted.
--
-- KEYS pairs: a wait list and its source

for n = 1, #KEYS, 2 do sweep(KEYS[n], KEYS[n + 1]) end
