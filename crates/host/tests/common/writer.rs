//! A guest of 512 bytes: a boot sector that writes numbered records for ever.
//!
//! Record n is a sector that begins with n, at sector 64 + n % 4096. When the disk has acknowledged it, the
//! guest says n in hexadecimal on its first serial port, or `E` when the write failed. It needs nothing but
//! the firmware's disk services, and is up in half a second under emulation.
//!
//! Made from this source with GNU as and ld (`-m elf_i386 -Ttext 0x7c00 --oformat binary`):
//!
//! ```text
//!             .code16
//!             .globl _start
//!     _start: cli
//!             xorw %ax, %ax
//!             movw %ax, %ds
//!             movw %ax, %es
//!             movw %ax, %ss
//!             movw $0x7c00, %sp
//!             sti
//!             movb %dl, drive
//!             movb $'H', %al
//!             call put
//!             movb $'I', %al
//!             call put
//!             movb $10, %al
//!             call put
//!     again:  incl count
//!             movl count, %eax
//!             movl %eax, 0x8000          # the record's buffer
//!             andl $0xfff, %eax
//!             addl $64, %eax
//!             movl %eax, lba
//!             movw $packet, %si
//!             movb drive, %dl
//!             movw $0x4300, %ax          # extended write
//!             int $0x13
//!             jc again0
//!             movl count, %ebx
//!             movw $8, %cx
//!     digit:  roll $4, %ebx
//!             movb %bl, %al
//!             andb $15, %al
//!             addb $'0', %al
//!             cmpb $'9', %al
//!             jbe 1f
//!             addb $39, %al
//!     1:      call put
//!             loop digit
//!             movb $10, %al
//!             call put
//!             jmp again
//!     again0: movb $'E', %al             # a failed write
//!             call put
//!             movb $10, %al
//!             call put
//!             jmp again
//!     put:    pushw %dx
//!             pushw %ax
//!             movw $0x3fd, %dx
//!     2:      inb %dx, %al
//!             testb $0x20, %al
//!             jz 2b
//!             popw %ax
//!             movw $0x3f8, %dx
//!             outb %al, %dx
//!             popw %dx
//!             ret
//!     packet: .byte 16, 0
//!             .word 1
//!             .word 0x8000, 0
//!     lba:    .long 0, 0
//!     count:  .long 0
//!     drive:  .byte 0
//!             .org 510
//!             .word 0xaa55
//! ```

/// Where the records are, and how many before the first is overwritten.
pub const FIRST_SECTOR: usize = 64;
pub const RECORDS: usize = 4096;

/// Bytes of a disk that holds them all.
pub const DISK: usize = 8 << 20;

const SECTOR: usize = 512;

#[rustfmt::skip]
const CODE: &[u8] = &[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0x88, 0x16, 0x9e,
    0x7c, 0xb0, 0x48, 0xe8, 0x63, 0x00, 0xb0, 0x49, 0xe8, 0x5e, 0x00, 0xb0, 0x0a, 0xe8, 0x59, 0x00,
    0x66, 0xff, 0x06, 0x9a, 0x7c, 0x66, 0xa1, 0x9a, 0x7c, 0x66, 0xa3, 0x00, 0x80, 0x66, 0x25, 0xff,
    0x0f, 0x00, 0x00, 0x66, 0x83, 0xc0, 0x40, 0x66, 0xa3, 0x92, 0x7c, 0xbe, 0x8a, 0x7c, 0x8a, 0x16,
    0x9e, 0x7c, 0xb8, 0x00, 0x43, 0xcd, 0x13, 0x72, 0x24, 0x66, 0x8b, 0x1e, 0x9a, 0x7c, 0xb9, 0x08,
    0x00, 0x66, 0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f, 0x04, 0x30, 0x3c, 0x39, 0x76, 0x02, 0x04,
    0x27, 0xe8, 0x15, 0x00, 0xe2, 0xeb, 0xb0, 0x0a, 0xe8, 0x0e, 0x00, 0xeb, 0xb3, 0xb0, 0x45, 0xe8,
    0x07, 0x00, 0xb0, 0x0a, 0xe8, 0x02, 0x00, 0xeb, 0xa7, 0x52, 0x50, 0xba, 0xfd, 0x03, 0xec, 0xa8,
    0x20, 0x74, 0xfb, 0x58, 0xba, 0xf8, 0x03, 0xee, 0x5a, 0xc3, 0x10, 0x00, 0x01, 0x00, 0x00, 0x80,
];

/// A disk that boots into the writer.
pub fn disk() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    disk[..CODE.len()].copy_from_slice(CODE);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// The record in the place of record n.
pub fn record(disk: &[u8], n: u32) -> u32 {
    let at = (FIRST_SECTOR + n as usize % RECORDS) * SECTOR;
    u32::from_le_bytes(disk[at..at + 4].try_into().unwrap())
}

/// The last acknowledged record in a serial log.
pub fn last_acknowledged(log: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(log);
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .rev()
        .find_map(|line| u32::from_str_radix(line.trim(), 16).ok().filter(|_| line.len() == 8))
        .unwrap_or(0)
}
