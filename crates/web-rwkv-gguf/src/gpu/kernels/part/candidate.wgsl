// Tokens to choose from, by falling logits, those of equal ones by their numbers.

/// Bits that are ordered as a logit is, and its token.
alias Candidate = vec2<u32>;

fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(select(x, 0.0, x == 0.0)); // −0 is 0
    return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}

fn is_before(a: Candidate, b: Candidate) -> bool {
    return a.x > b.x || a.x == b.x && a.y < b.y;
}
