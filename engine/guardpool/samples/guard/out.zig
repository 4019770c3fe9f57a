//! Writes the answer straight into the host's buffer. Past its end nothing is written and the bytes are still counted,
//! so that the host can be told how much room the answer wants.

const std = @import("std");

pub const too_small: i32 = -2;

pub const Out = struct {
    buffer: []u8,
    len: usize = 0,

    pub fn raw(self: *Out, text: []const u8) void {
        if (self.len <= self.buffer.len and text.len <= self.buffer.len - self.len) {
            @memcpy(self.buffer[self.len..][0..text.len], text);
        } else if (self.len < self.buffer.len) {
            // From here on nothing may fit by chance: what is in the buffer is given up.
            self.buffer.len = 0;
        }
        self.len += text.len;
    }

    pub fn number(self: *Out, n: usize) void {
        var digits: [20]u8 = undefined;
        self.raw(digits[0..std.fmt.formatIntBuf(&digits, n, 10, .lower, .{})]);
    }

    /// The inside of a JSON string: whatever it is made of, it ends where it should.
    pub fn escaped(self: *Out, text: []const u8) void {
        var from: usize = 0;
        for (text, 0..) |c, i| {
            if (c >= 0x20 and c != '"' and c != '\\') continue;
            self.raw(text[from..i]);
            from = i + 1;
            if (c >= 0x20) {
                self.raw(&.{ '\\', c });
            } else {
                const hex = "0123456789abcdef";
                self.raw(&.{ '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] });
            }
        }
        self.raw(text[from..]);
    }

    pub fn string(self: *Out, text: []const u8) void {
        self.raw("\"");
        self.escaped(text);
        self.raw("\"");
    }
};
