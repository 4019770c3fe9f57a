//! How bytes of the guard's memory come here: in pieces of 64 bytes, each as the arguments of one call of the bridge's.

/// Bytes of a piece.
pub const size = 64;

/// Writes a piece. It is whole; what is behind the end of what the bridge copies may be anything.
pub inline fn write(to: *[size]u8, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64) void {
    const words: *align(1) [8]u64 = @ptrCast(to);
    words.* = .{ a, b, c, d, e, f, g, h };
}
