// 16550A (National Semiconductor PC16550D data sheet).
#include "guest/drivers/serial.h"

#include "guest/lib/ports.h"

enum {
    COM1 = 0x3f8,
    DATA = COM1,
    INTERRUPT_ENABLE = COM1 + 1, // bit 0: received data
    FIFO_CONTROL = COM1 + 2,
    MODEM_CONTROL = COM1 + 4, // DTR, RTS, OUT2 (gates the interrupt on a PC)
    LINE_STATUS = COM1 + 5,
    STATUS_DATA_READY = 0x01,
    STATUS_TRANSMIT_EMPTY = 0x20,
    FIFO_SIZE = 16,
};

bool serial_present(void)
{
    return port_read8(LINE_STATUS) != 0xff;
}

static bool serial_transmit_empty(void)
{
    // Bounded, so that a port that isn't there or is stuck costs output, not the guest.
    for (unsigned i = 0; i < 100000; i++)
        if (port_read8(LINE_STATUS) & STATUS_TRANSMIT_EMPTY)
            return true;
    return false;
}

void serial_write(const void *bytes, size_t size)
{
    const char *next = bytes;
    while (size) {
        size_t part = size < FIFO_SIZE ? size : FIFO_SIZE;
        if (!serial_transmit_empty())
            return;
        // One OUT a byte: KVM has a short path for it, but emulates REP OUTSB, byte by byte as
        // well.
        for (size_t i = 0; i < part; i++)
            port_write8(DATA, (uint8_t)*next++);
        size -= part;
    }
}

size_t serial_read(void *bytes, size_t size)
{
    char *to = bytes;
    size_t count = 0;
    while (count < size && (port_read8(LINE_STATUS) & STATUS_DATA_READY) && serial_present())
        to[count++] = (char)port_read8(DATA);
    return count;
}

void serial_interrupt_on_input(void)
{
    port_write8(FIFO_CONTROL, 0x01);
    port_write8(MODEM_CONTROL, 0x0b);
    port_write8(INTERRUPT_ENABLE, 0x01);
}
